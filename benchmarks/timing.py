"""Timings that can be compared: contenders take turns in one process, and medians with their spread are kept."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SLOW = 12.0  # seconds: a call that takes longer is not repeated


@dataclass
class Contender:
    """A call, what it is differentiated by, and the gradient of its output."""

    call: Callable[[], Tensor]
    leaves: list[Tensor]
    weight: Tensor

    def forward(self) -> None:
        with torch.no_grad():
            self.call()

    def both(self) -> None:
        torch.autograd.grad(self.call(), self.leaves, self.weight)


def side_by_side(contenders: dict[str, Callable[[], object]], *, seconds: float = 4.0, rounds: int = 9) -> dict:
    """Median, fastest and slowest milliseconds of each contender, called in turn for about `seconds` in all.

    Each is called once before the clock starts, then three to `rounds` times; fewer where three take more than `SLOW`.
    A call that alone takes longer is its own measurement (`rounds` is 0): what a first call adds is small against it.
    """
    first = {name: milliseconds(call) for name, call in contenders.items()}
    counts, spans = {}, {}
    for name, span in first.items():
        least = min(3, int(1e3 * SLOW / span))
        counts[name] = max(least, min(rounds, int(1e3 * seconds / len(contenders) / span)))
        spans[name] = [] if counts[name] else [span]
    for turn in range(max(counts.values())):
        for name, call in contenders.items():
            if turn < counts[name]:
                spans[name].append(milliseconds(call))
    return {name: {**spread(found), "rounds": counts[name]} for name, found in spans.items()}


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def spread(spans: Iterable[float]) -> dict:
    spans = list(spans)
    return {"median": statistics.median(spans), "min": min(spans), "max": max(spans)}


def machine() -> dict:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": allocator or "glibc's defaults",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return found.stdout.strip()


def main(description: str | None, parts: dict[str, Callable[[argparse.Namespace], dict]]) -> None:
    """Measure each part, print it, and keep its numbers in `results/<part>.json` (not with --quick)."""
    from benchmarks import tables

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes, nothing written")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison, about")
    parser.add_argument("--only", choices=list(parts), action="append", help="this part alone")
    options = parser.parse_args()
    if options.quick:
        options.seconds = min(options.seconds, 2.0)
    torch.set_num_threads(1)
    for name in options.only or parts:
        torch.manual_seed(0)
        facts = machine()
        begin = time.perf_counter()
        result = {"machine": facts, **parts[name](options), "seconds": round(time.perf_counter() - begin)}
        print(f"\n# {name} ({result['seconds']} s)\n\n{tables.PARTS[name](result)}", flush=True)
        if not options.quick:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.json").write_text(json.dumps(_rounded(result), indent=1) + "\n")


def _rounded(value):
    """Five digits of every number: more would be noise in the history of the files."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def load() -> dict[str, dict]:
    """What the last run of each part found."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
