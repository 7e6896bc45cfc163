"""How fast are the GPU's kernels and whole models, beside their peers and the device's limits, and are they right?

    python -m benchmarks.gpu [--dry] [--prepare] [--only SECTION ...] [--out FOLDER]

Under eight minutes. First `bash benchmarks/gpu/setup.sh` for the peers, and `--prepare`, which compiles what compiles.
Each package runs in a process of its own (some need another Triton); the calls of all contenders of a case take turns
in rounds, timed by events on the device; medians are kept. Models do not fit side by side and go one after the other.
What fails is a row that says why. `--dry` runs all of it on the CPU: tiny sizes, Triton's interpreter, a plain clock.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.gpu import cases
from benchmarks.gpu.processes import Failed, Processes

OUT = timing.ROOT / "docs" / "results" / "gpu"
ROUNDS, MOST, COMPILING = 5, 20, 60.0  # bursts of a contender, calls in a burst, seconds for a first call


class Run:
    def __init__(self, dry: bool, prepare: bool) -> None:
        self.dry, self.prepare = dry, prepare
        self.processes = Processes(dry)
        self.begin = time.perf_counter()

    @property
    def now(self) -> float:
        return time.perf_counter() - self.begin

    def limits(self) -> dict[str, float]:
        sizes = {"size": 64, "numbers": 4096} if self.dry else {"size": 8192, "numbers": 2**28}
        try:
            return self.processes.ask("torch", "limits", COMPILING, **sizes)
        except Failed as error:
            print(f"limits: {error}", flush=True)
            return {}

    def errors(self) -> dict[str, dict[str, dict]]:
        """Of h and every gradient against float64, for all that claim to be the same mathematics."""
        found: dict[str, dict[str, dict]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for section, (entries, case) in cases.errors(self.dry).items():
                path, found[section] = str(Path(folder) / section), {}
                functions = sorted({entry.reference for entry in entries.values()})
                exact = {"section": section, "case": case, "functions": functions, "path": path}
                try:
                    self.processes.ask("exgate", "exact", 2 * COMPILING, **exact)
                except Failed as error:
                    found[section] = {name: {"failed": f"no reference: {error}"} for name in entries}
                    continue
                for name, entry in entries.items():
                    request = {"maker": entry.maker, "options": entry.options, "function": entry.reference}
                    try:
                        reply = self.processes.ask(entry.package, "errors", self.patience(), **request, path=path)
                        found[section][name] = reply
                    except Failed as error:
                        found[section][name] = {"failed": str(error)}
        return found

    def patience(self, end: float | None = None) -> float:
        """Seconds for a first call, which compiles."""
        if self.prepare:
            return 1800.0
        if end is None or self.dry:  # a busy machine is no reason to fail where nothing is measured
            return COMPILING
        return max(1.0, min(COMPILING, end + 10 - self.now))

    def section(self, section: cases.Section, end: float) -> dict[str, dict[str, dict]]:
        """case -> contender -> its facts and, for each kind, its times; or why it failed. Done at `end`, or nearly."""
        found: dict[str, dict[str, dict]] = {}
        late: set[str] = set()
        for number, (name, case) in enumerate(section.cases.items()):
            rows = found[name] = {}
            share = max(0.0, end - self.now) / (len(section.cases) - number)
            entries = {who: entry for who, entry in section.entries.items() if who not in late}
            rows |= {who: {"failed": "late in a case before"} for who in late}
            for group in [{who: entry} for who, entry in entries.items()] if section.alone else [entries]:
                part = self.compare(section, case, group, end, share * len(group) / max(1, len(entries)))
                late |= {who for who, row in part.items() if row.pop("late", False)}
                rows |= part
            print(f"{section.name} {name}: {sum('failed' not in row for row in rows.values())} of {len(rows)}"
                  f", {self.now:.0f} s", flush=True)  # fmt: skip
        return found

    def compare(self, section: cases.Section, case: dict, entries: dict[str, cases.Entry], end: float, share: float):
        """Contenders of one case in turns, for about `share` seconds."""
        if self.now > end and not (self.prepare or self.dry):
            return {who: {"failed": "left out: the time of this section was spent"} for who in entries}
        begin, rows, first = self.now, {}, {}
        for who, entry in entries.items():
            request = {"maker": entry.maker, "options": entry.options, "case": case, "section": section.name}
            try:
                rows[who] = self.processes.ask(entry.package, "make", self.patience(end), name=who, **request)
                for kind in section.kinds if not self.prepare else ():
                    ask = {"name": who, "kind": kind, "count": 1}
                    first[who, kind] = self.processes.ask(entry.package, "time", COMPILING, **ask)[0]
            except Failed as error:
                rows[who] = {"failed": str(error), "late": error.late}
        first = {key: span for key, span in first.items() if "failed" not in rows[key[0]]}
        each = 1e3 * max(0.0, share - (self.now - begin)) / max(1, len(first))  # milliseconds of each, in all
        spans: dict[tuple[str, str], list[float]] = {key: [] for key in first}
        for turn in range(1 if self.dry else ROUNDS):
            for (who, kind), span in first.items():
                count = int(min(MOST, max(1, each / ROUNDS / span)))
                if "failed" in rows[who] or (turn > 0 and (turn + 1) * span > each):
                    continue  # three and more turns only where they fit
                try:
                    ask = {"name": who, "kind": kind, "count": count}
                    spans[who, kind] += self.processes.ask(entries[who].package, "time", 2 * COMPILING, **ask)
                except Failed as error:
                    rows[who] = {"failed": str(error), "late": error.late}
        for (who, kind), found in spans.items():
            if found and "failed" not in rows[who]:
                rows[who][kind] = {**timing.spread(found), "rounds": len(found)}
        for package in {entry.package for entry in entries.values()} & set(self.processes.running):
            with suppress(Failed):
                self.processes.ask(package, "drop", COMPILING)
        return rows

    def machine(self, packages: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = timing.machine()
        for package in sorted(packages):
            try:
                found[package] = self.processes.ask(package, "machine", COMPILING)
            except Failed as error:
                found[package] = {"failed": str(error)}
        return found


def measure(options: argparse.Namespace) -> dict:
    run = Run(options.dry, options.prepare)
    chosen = [one for one in cases.sections(options.dry) if not options.only or one.name in options.only]
    try:
        packages = {entry.package for section in chosen for entry in section.entries.values()}
        for package in packages:  # all at once: each imports PyTorch first
            with suppress(Failed):
                run.processes.start(package)
        result = {"dry": options.dry, "machine": run.machine(packages)}
        before = {} if options.prepare else run.limits()
        result["errors"] = run.errors()
        result["sections"], begin = {}, run.now
        total = 10.0 if options.dry else cases.BUDGET - begin
        spent = 0.0
        for section in chosen:
            spent += section.share / sum(one.share for one in chosen)
            rows = run.section(section, begin + total * spent)
            result["sections"][section.name] = {"title": section.title, "cases": rows}
        after = {} if options.prepare else run.limits()  # what else ran must not make them look low
        result["limits"] = {name: max(value, after.get(name, 0.0)) for name, value in before.items()}
        return {**result, "seconds": round(run.now)}
    finally:
        run.processes.close()


def usable() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, tiny, to see that it runs: no figures of a GPU")
    parser.add_argument("--prepare", action="store_true", help="call everything once, without a limit of time")
    parser.add_argument("--only", nargs="+", metavar="SECTION", choices=[one.name for one in cases.sections(False)])
    parser.add_argument("--out", type=Path, help="the folder of the results; docs/results/gpu, and none with --dry")
    options = parser.parse_args()
    if not options.dry and not usable():
        print("PyTorch sees no GPU here. --dry runs the same on the CPU, without figures.", file=sys.stderr)
        return 1
    from benchmarks.gpu import report

    result = measure(options)
    if options.prepare:
        return 0
    print(report.text(result))
    out = options.out or (None if options.dry or options.only else OUT)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n")
        report.draw(result, out)
        if out == OUT:
            report.PAGE.write_text(report.page(report.PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
