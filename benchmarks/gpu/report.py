"""docs/benchmarks-gpu.md: its tables and plots from `docs/results/gpu/*.json`, without measuring anything.

python -m benchmarks.gpu.report
"""

import json
import statistics
from pathlib import Path

from benchmarks import triton_resources as resources
from benchmarks.gpu import cases, work
from benchmarks.report import fill
from benchmarks.tables import table
from benchmarks.timing import ROOT

PAGE = ROOT / "docs" / "benchmarks-gpu.md"
RESULTS = ROOT / "docs" / "results" / "gpu"
KINDS = {"forward": "forward", "both": "forward and backward", "step": "tokens/s", "tokens": "tokens/s"}
WRONG = 3e-2  # a gradient with bf16 inputs that is further off than this is another gradient


def wrong(result: dict, section: str) -> dict[str, str]:
    """The contenders of a section whose gradients are wrong, and which."""
    found = {}
    for name, errors in result["errors"].get(section, {}).items():
        bad = {tensor: error for tensor, error in errors.items() if tensor != "failed" and error > WRONG}
        if bad:
            worst = max(bad, key=bad.__getitem__)
            found[name] = f"{', '.join(bad)} (worst: {worst}, {bad[worst]:.1e} of the largest number)"
    return found


def text(result: dict) -> str:
    """All tables of a run."""
    parts = [_limits(result), _errors(result)]
    for name, section in result["sections"].items():
        if section["cases"]:
            parts.append(f"**{section['title']}**")
            make = _models if name in ("paper", "training", "decoding") else _cells
            parts.append(make(result, name, section["cases"]))
    return "\n\n".join(parts) + "\n\n" + _machine(result)


def _limits(result: dict) -> str:
    if not result["limits"]:
        return "The limits of the device could not be measured."
    found = result["limits"]
    return (
        f"Limits measured in this run: {found['TFLOP/s bf16']:.3g} TFLOP/s of a product in bf16; "
        f"{found['GB/s copy']:.4g} GB/s of a copy, read and written; {found['GB/s read']:.4g} GB/s of reading."
    )


def _errors(result: dict) -> str:
    lines = []
    for found in result["errors"].values():
        names = list(dict.fromkeys(tensor for errors in found.values() for tensor in errors if tensor != "failed"))
        rows = []
        for who, errors in found.items():
            if "failed" in errors:
                rows.append([who, errors["failed"], *[""] * (len(names) - 1)])
            else:
                cells = (f"{errors[n]:.1e}" for n in names)
                rows.append([who, *(f"**{c}**" if errors[n] > WRONG else c for c, n in zip(cells, names, strict=True))])
        lines.append(table(["error against float64, inputs in bf16", *names], rows))
    return "\n\n".join(lines)


def _cells(result: dict, section: str, rows: dict[str, dict]) -> str:
    """For each kind a table of milliseconds, and how many times as long as ours it takes; then memory; then reasons."""
    names, bad, parts = list(next(iter(rows.values()))), wrong(result, section), []
    names = [who for who in names if any("failed" not in row[who] for row in rows.values())]
    for kind in ("forward", "both"):
        lines = [[case, *(_span(row, who, kind) for who in names), _share(result, section, case, row, kind)]
                 for case, row in rows.items()]  # fmt: skip
        marked = [who + (" (wrong gradient)" if who in bad and kind == "both" else "") for who in names]
        parts.append(f"{KINDS[kind]}, ms\n\n{table(['', *marked, 'ours: share of products, of memory'], lines)}")
    lines = [
        [case, *(f"{row[who]['both bytes'] / 1e9:.2f}" if "both" in row[who] else "-" for who in names)]
        for case, row in rows.items()
    ]
    parts.append(f"peak memory of forward and backward beyond the inputs, GB\n\n{table(['', *names], lines)}")
    parts += [f"{who}: its gradients are not those of the function: {which}." for who, which in bad.items()]
    return "\n\n".join(parts + _reasons(rows))


def _ours(row: dict[str, dict], who: str) -> str | None:
    """The contender of ours that does the same, or nearly."""
    entries = cases.MLSTM | cases.RECURRENT
    wanted = {"plain": "sigmoid", "": ""}.get(entries[who].reference, entries[who].reference)
    mine = [name for name in row if entries[name].package == "exgate"]
    same = [name for name in mine if entries[name].reference == wanted]
    if who == "nn.LSTM cuDNN":
        same = [name for name in mine if entries[name].reference == "lstm"]
    return next(iter(same or mine), None)


def _span(row: dict[str, dict], who: str, kind: str) -> str:
    if kind not in row[who]:
        return "-"
    span, ours = row[who][kind]["median"], _ours(row, who)
    if ours == who or ours is None or kind not in row[ours]:
        return f"**{span:.3g}**" if ours == who else f"{span:.3g}"
    return f"{span:.3g} ({span / row[ours][kind]['median']:.2f}x)"


def _share(result: dict, section: str, case: str, row: dict[str, dict], kind: str) -> str:
    """What of the measured limits our first contender reaches, by the operations and bytes of `work.py`."""
    ours, size = next(who for who in row if who.startswith("exgate")), cases_of(result)[section][case]
    if kind not in row[ours] or not result["limits"]:
        return "-"
    tokens = size["B"] * size["T"] * size["H"]
    if section == "mlstm":
        counted = [count(size["K"], size["V"], work.CHUNK)[kind] for count in (work.mlstm, work.mlstm_bytes)]
    else:
        counted = [work.recurrent(size["K"])[kind], work.recurrent_bytes(size["K"])[kind]]
    seconds = row[ours][kind]["median"] / 1e3
    rates = (counted[0] * tokens / seconds / 1e12, counted[1] * tokens / seconds / 1e9)
    bounds = (result["limits"]["TFLOP/s bf16"], result["limits"]["GB/s copy"])
    return ", ".join(f"{100 * rate / bound:.0f} %" for rate, bound in zip(rates, bounds, strict=True))


def cases_of(result: dict) -> dict[str, dict[str, dict]]:
    return {section.name: section.cases for section in cases.sections(result["dry"])}


def _models(result: dict, section: str, rows: dict[str, dict]) -> str:
    """Tokens per second, and in decoding what of the limit of reading memory that is."""
    lines = []
    for case, found in rows.items():
        size = cases_of(result)[section][case]
        count = size["B"] * size["tokens" if section == "decoding" else "T"]
        for who, row in found.items():
            kind = "tokens" if section == "decoding" else "step"
            if kind not in row:
                continue
            rate = 1e3 * count / row[kind]["median"]
            reads = row["weight_bytes"] * rate / size["B"] / 1e9
            least = result["limits"].get("GB/s read", 0.0)
            share = f"{100 * reads / least:.0f} %" if section == "decoding" and least else ""
            cells = [f"{row['parameters'] / 1e6:,.0f} M", f"{rate:,.0f}", f"{row[f'{kind} bytes'] / 1e9:.1f}", share]
            lines.append([case, who, *cells])
    head = ["", "model", "parameters", "tokens/s", "GB beyond the weights", "share of reading memory"]
    return "\n\n".join([table(head, lines), *_reasons(rows)])


def _reasons(rows: dict[str, dict]) -> list[str]:
    """Why contenders have no number, each reason once."""
    found: dict[str, dict[str, list[str]]] = {}
    for case, row in rows.items():
        for who, one in row.items():
            if "failed" in one:
                found.setdefault(who, {}).setdefault(one["failed"], []).append(case)
    lines = []
    for who, reasons in found.items():
        for reason, where in reasons.items():
            some = "" if len(where) == len(rows) else f" ({', '.join(where)})"
            lines.append(f"- {who}{some}: {reason}")
    return ["\n".join(["No number:\n", *lines])] if lines else []


def _machine(result: dict) -> str:
    facts = result["machine"]
    found = [f"{package}: {', '.join(f'{k} {v}' for k, v in one.items())}"
             for package, one in facts.items() if isinstance(one, dict) and "torch" in one]  # fmt: skip
    where = "the CPU, tiny sizes: no figures of a GPU" if result["dry"] else "the device"
    return f"On {where}; {'; '.join(found)}; commit {facts['commit']}; {result['seconds']} s."


def draw(result: dict, folder: Path) -> list[Path]:
    """Times over T and over the head size, and memory over T: as `folder/NAME.svg`. Needs matplotlib."""
    import matplotlib

    from benchmarks import plots

    paths = []
    with matplotlib.rc_context(plots.STYLE):
        for name, letter in (("mlstm", "T"), ("recurrent", "K")):
            rows = result["sections"].get(name, {}).get("cases", {})
            if not rows:
                continue
            figure, axes = plots.panels(1, 3, 3.8)
            sizes = [cases_of(result)[name][case][letter] for case in rows]
            columns = {"forward": "forward", "both": KINDS["both"], "both bytes": "peak memory"}
            for ax, (kind, words) in zip(axes[0], columns.items(), strict=True):
                for number, who in enumerate(next(iter(rows.values()))):
                    _line(ax, who, number, kind, sizes, list(rows.values()))
                ax.set(title=words, xlabel=letter, ylabel="GB" if "bytes" in kind else "ms")
                if ax.dataLim.height > 0:
                    plots.both_logarithmic(ax, sizes)
            figure.legend(*axes[0][0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
            paths.append(folder / f"{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def _line(ax, who: str, number: int, kind: str, sizes: list[int], rows: list[dict]) -> None:
    values = [row[who].get(kind) for row in rows]
    values = [value["median"] if isinstance(value, dict) else value and value / 1e9 for value in values]
    points = [(size, value) for size, value in zip(sizes, values, strict=True) if value]
    style = "-" if who.startswith("exgate") else "--"
    ax.plot(*(zip(*points, strict=True) if points else ([], [])), style, marker="o", markersize=3, color=f"C{number}",
            label=who)  # fmt: skip


def resource_table(kept: dict) -> str:
    rows = [resources.Row(**row) for row in kept["rows"]]
    header, lines = resources.table(rows, resources.TARGETS)
    bad, seconds = sum(bool(row.faults()) for row in rows), [row.seconds for row in rows]
    facts = kept["machine"]
    return (
        f"{table(header, lines)}\n\n{len(rows)} kernels, {bad} with faults; {statistics.median(seconds):.1f} s to "
        f"compile in the median, {max(seconds):.1f} s at most. Triton {facts['triton']}, commit {facts['commit']}."
    )


def work_table() -> str:
    """What a token asks of each cell, counted: the ratio says which limit comes first (an H100 has about 300)."""
    rows = []
    for key, value, chunk in ((64, 64, 256), (128, 256, 256), (256, 512, 512), (512, 512, 1024)):
        counts = (work.mlstm(key, value, chunk), work.mlstm_bytes(key, value, chunk))
        rows.append([f"mLSTM, K={key}, V={value}, chunks of {chunk}", *_counted(*counts)])
    for size in (64, 256, 768):
        counts = (work.recurrent(size), work.recurrent_bytes(size))
        rows.append([f"sLSTM, K={size}", *_counted(*counts)])
    head = ["per token and head", "kFLOP forward", "with backward", "bytes forward", "with backward", "FLOP/byte"]
    return table(head, rows)


def _counted(operations: dict[str, float], moved: dict[str, float]) -> list[str]:
    cells = [f"{operations[kind] / 1e3:,.0f}" for kind in ("forward", "both")]
    cells += [f"{moved[kind]:,.0f}" for kind in ("forward", "both")]
    return [*cells, f"{operations['both'] / moved['both']:.0f}"]


def page(text_of_page: str) -> str:
    """The page with its parts anew: those whose results there are."""
    parts = {"work": work_table()}
    if (RESULTS / "resources.json").exists():
        parts["resources"] = resource_table(json.loads((RESULTS / "resources.json").read_text()))
    if (RESULTS / "benchmark.json").exists():
        parts["benchmark"] = text(json.loads((RESULTS / "benchmark.json").read_text()))
    return fill(text_of_page, parts, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
