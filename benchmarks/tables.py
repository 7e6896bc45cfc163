"""The parts of docs/benchmarks.md, each written from the JSON of its part and nothing else."""

import math
from collections.abc import Callable

from benchmarks import figures, limits

KINDS = {"forward": "forward", "both": "forward and backward"}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sentence(facts: dict) -> str:
    """On what it was measured."""
    allocator = facts["allocator"]
    if isinstance(allocator, dict):
        allocator = " ".join(f"{name}={value}" for name, value in allocator.items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} thread(s), load {facts['load']:.1f} before, "
        f"allocator {allocator}, Python {facts['python']}, torch {facts['torch']}, commit {facts['commit']}."
    )


def slope(sizes: list[float], values: list[float]) -> float:
    """The exponent of growth: least squares in the logarithms. Not a number for fewer than two sizes."""
    if len(sizes) < 2:
        return math.nan
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def _limits(part: dict) -> str:
    found = part["limits"]
    return (
        f"Measured limits in this run: matrix product float32 {found['float32']:.0f} and bfloat16 {found['bf16']:.0f} "
        f"GFLOP/s, reading memory {found['read']:.1f} GB/s."
    )


def _span(spans: dict, precise: bool = False) -> str:
    """median [fastest, slowest]; a star where a call was too long to be repeated."""
    digits = ".2f" if spans["median"] < 10 else ".1f" if spans["median"] < 1000 else ".0f"
    if not spans["rounds"]:
        return f"{spans['median']:{digits}} \\*"
    return f"{spans['median']:{digits}} [{spans['min']:{digits}}, {spans['max']:{digits}}]"


def _against(found: dict, names: list[str]) -> list[str]:
    """Each contender's milliseconds and how many times as long as `cpu` the others take."""
    cells = []
    for name in names:
        if name not in found:
            cells.append("-")
        elif name == "cpu":
            cells.append(f"**{_span(found[name])}**")
        else:
            cells.append(f"{_span(found[name])} ({found[name]['median'] / found['cpu']['median']:.2f}x)")
    return cells


def _cells(part: dict, cell: str, head: str, names: list[str], label: str) -> str:
    """One table each for forward and forward+backward, with the rate of `cpu` where operations are counted."""
    texts = []
    count = {"slstm": limits.slstm, "mlstm": limits.mlstm}.get(cell)
    for kind, words in KINDS.items():
        rows, shares = [], figures.shares(part, cell, kind, "cpu") if count else {}
        for case, found in part["cases"].items():
            row = [case, *_against(found[kind], names)]
            if count:
                rate = count(*figures.numbers(case))[kind] / found[kind]["cpu"]["median"] / 1e6
                row.append(f"{rate:.0f} ({shares[case]:.0f} %)")
            rows.append(row)
        header = [head, *names] + (["GFLOP/s of cpu (of limit)"] if count else [])
        texts.append(f"**{label}, {words}**\n\n{table(header, rows)}")
    return "\n\n".join(texts)


STAR = "\\* too long to be repeated: one call, without one before it. -: not run, it takes minutes or far more memory."


def slstm(part: dict) -> str:
    layers = ["sLSTM layer", "LSTM layer", "nn.LSTM"]
    by_layer = [
        f"**Layers, {words}** (in brackets: `nn.LSTM` takes so many times as long as ours)\n\n"
        + table(["H, B, T", *layers], [_layer_row(case, found[kind]) for case, found in part["cases"].items()])
        for kind, words in KINDS.items()
    ]
    cells = _cells(part, "slstm", "H, B, T", ["cpu", "eager", "nn.LSTM", "xlstm"], "sLSTM cell")
    return "\n\n".join([cells, *by_layer, STAR, _limits(part), sentence(part["machine"])])


def _layer_row(case: str, found: dict) -> list[str]:
    theirs = found["nn.LSTM"]
    ours = [found[name] for name in ("sLSTM layer", "LSTM layer")]
    return [case, *(f"{_span(one)} ({theirs['median'] / one['median']:.2f}x)" for one in ours), _span(theirs)]


def mlstm(part: dict) -> str:
    names = ["cpu", "cpu bf16", "eager", "native_custbw", "xlstm parallel", "SDPA"]
    cells = _cells(part, "mlstm", "B, T, K=V", names, "mLSTM")
    halves = {kind: figures.shares(part, "mlstm", kind, "cpu bf16") for kind in KINDS}
    listed = "; ".join(
        f"{words} {min(halves[kind].values()):.0f} to {max(halves[kind].values()):.0f} %"
        for kind, words in KINDS.items()
    )
    return "\n\n".join(
        [
            cells,
            f"bf16 reaches these shares of its own limit: {listed}.",
            STAR,
            _limits(part),
            sentence(part["machine"]),
        ]
    )


def channels(part: dict) -> str:
    names = ["cpu", "eager", "torch", "transformers"]
    cells = _cells(part, "channels", "B, T, D", names, "Channel by channel")
    return "\n\n".join([cells, STAR, sentence(part["machine"])])


def _grown(part: dict, axis: str, unit: str) -> str:
    sizes = sorted({size for found in part["cells"].values() for one in found.values() for size in one[axis]})
    rows = []
    for cell, found in part["cells"].items():
        for name, one in found.items():
            if unit not in one:
                continue
            values = dict(zip(one[axis], one[unit], strict=True))
            exponent = slope(one[axis][-3:], one[unit][-3:])  # at the small end there is the cost of a call
            rows.append(
                [
                    f"{cell} {name}",
                    *(_number(values[s]) if s in values else "-" for s in sizes),
                    "-" if math.isnan(exponent) else f"{exponent:.2f}",
                ]
            )
    return table([f"{unit} at {axis} =", *map(str, sizes), "slope of the last three"], rows)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def steps(part: dict) -> str:
    return "\n\n".join(
        [
            "**Growth over T**, forward and backward (sLSTM H=256, B=8; mLSTM B=1, K=V=128). -: left out, a call was "
            "expected to take longer than eight seconds, or more memory than there is.",
            _grown(part, "T", "milliseconds"),
            "Peak memory above the inputs, the gradients included, with an allocator that gives back what is freed:",
            _grown(part, "T", "megabytes"),
            sentence(part["machine"]),
        ]
    )


def batch(part: dict) -> str:
    title = "**Growth over the batch**, forward and backward (sLSTM H=256, T=256; mLSTM T=1024, K=V=128)."
    return "\n\n".join([title, _grown(part, "B", "milliseconds"), sentence(part["machine"])])


def threads(part: dict) -> str:
    rows = []
    for case, found in part["cases"].items():
        row = [case]
        for kind in KINDS:
            one, two = found[kind]["1"], found[kind]["2"]
            row.append(f"{one:.1f}, {two:.1f} ({one / two:.2f}x)")
        rows.append(row)
    title = "**Threads**: milliseconds with one and with two, native kernels (sLSTM H, B, T; mLSTM B, T, K=V)."
    return "\n\n".join([title, table(["cell", *KINDS.values()], rows), sentence(part["machine"])])


def lm(part: dict) -> str:
    names, rows = list(part["parameters"]), []
    for case, found in part["cases"].items():
        theirs = found["spans"]["transformers xLSTM"]["median"]
        row = [case]
        for name in names:
            spans = found["spans"][name]
            rates = [1e3 * found["tokens"] / spans[key] for key in ("median", "max", "min")]
            row.append(f"{rates[0]:.0f} [{rates[1]:.0f}, {rates[2]:.0f}] ({theirs / spans['median']:.2f}x)")
        rows.append(row)
    counts = ", ".join(
        f"{name} {count / 1e6:.1f} M" for name, count in part["parameters"].items() if "bf16" not in name
    )
    return "\n\n".join(
        [
            "**Tokens per second** (in brackets: over `transformers` xLSTM), hidden 512, 8 blocks, vocabulary 8192. "
            "Training is forward, loss and backward, without an optimiser; prefill keeps the state and gives the last "
            f"logits. Parameters: {counts}. With the same weights our logits and those of `transformers` xLSTM differ "
            f"by {part['disagreement']:.0e} of the largest. Its classes are its own, as where `xlstm` is absent.",
            table(["", *names], rows),
            sentence(part["machine"]),
        ]
    )


def decode(part: dict) -> str:
    rows, absent = [], "" if "ours bf16" in next(iter(part["cases"].values())) else COMPACT
    for case, found in part["cases"].items():
        for name, spans in found.items():
            theirs = found["transformers xLSTM"]["median"] / spans["median"]
            row = [case, name, _span(spans), f"{theirs:.2f}x"]
            if name != "transformers Llama":  # what it reads grows with what it has read
                row += [f"{figures.least(part, case, name):.2f}", f"{figures.share(part, case, name):.0f} %"]
            rows.append(row + ["-"] * (6 - len(row)))
    listed = ", ".join(f"{size} {facts['parameters'] / 1e6:.1f} M" for size, facts in part["models"].items())
    header = ["model", "", "ms per token", "`transformers` xLSTM takes", "least ms by memory", "share of limit"]
    return "\n\n".join(
        [
            f"**Milliseconds per token**, parameters: {listed}. Ours through `generate`, all of it; its peers' bare "
            "forward with a cache, and argmax. The limit: all weights but the embedding's table, once, and the state, "
            "read and written, at the measured speed of reading memory. Weights that fit into the cache can pass it."
            + absent,
            table(header, rows),
            _limits(part),
            sentence(part["machine"]),
        ]
    )


COMPACT = " Compact weights (bf16, int8) are left out: this version of exgate has none."


def start(part: dict) -> str:
    found = part["milliseconds"]
    beyond = found["exgate"]["median"] - found["torch"]["median"]
    return (
        f"`import torch` {found['torch']['median']:.0f} ms, `import exgate` {found['exgate']['median']:.0f} ms: "
        f"exgate adds {beyond:.0f} ms (medians of {found['exgate']['rounds']} fresh processes; aim: under 300).\n\n"
        f"{sentence(part['machine'])}"
    )


def forecast(part: dict) -> str:
    rows = []
    for steps, found in part["online"].items():
        times = [f"{found['milliseconds'][name]['median']:.3g}" for name in ("update", "state", "again")]
        kept = (f"{found[name] / 1000:,.0f}" for name in ("state_bytes", "series_bytes"))
        rows.append([f"{int(steps):,}", *times, *kept])
    head = ["values before", "`update` and `predict`, ms", "the state alone, ms", "all of it again, ms", "kB of states",
            "kB of series"]  # fmt: skip
    online = table(head, rows)
    cells = {"s": "sLSTM", "m": "mLSTM"}
    rows = [
        [cells[name], *(f"{found[steps]['median']:.0f}" for steps in ("32", "128")),
         f"{found['128']['median'] / found['32']['median']:.2f}x"]
        for name, found in part["horizon"].items()
    ]  # fmt: skip
    horizon = table(["cell", "32 steps, ms", "128 steps, ms", "ratio"], rows)
    rows = [[name, f"{found['fit']:.1f}", f"{found['predict']:.2f}"] for name, found in part["fit"].items()]
    fit = table(["model", "fit, s", "predict, s"], rows)
    return "\n\n".join([online, horizon, fit, sentence(part["machine"])])


PARTS: dict[str, Callable[[dict], str]] = {
    function.__name__: function
    for function in (slstm, mlstm, channels, steps, batch, threads, lm, decode, start, forecast)
}
