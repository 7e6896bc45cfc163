"""The figures to reach: what must be, what we aim at, and what the last run found, all from `results/*.json`."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import limits

Spans = dict[str, dict[str, float]]  # contender -> median, min, max


@dataclass(frozen=True)
class Figure:
    """One line of the table: a figure in each of several cases, of which the worst counts.

    Args:
        what: in words.
        values: case -> figure.
        must, aim: at least, or at most if `lower`.
        unit: "x" (a ratio) or "%".
    """

    what: str
    values: dict[str, float]
    must: float
    aim: float
    unit: str = "x"
    lower: bool = False

    @property
    def missed(self) -> list[str]:
        """The cases that miss what must be."""
        return [case for case, value in self.values.items() if not self._reaches(value, self.must)]

    @property
    def verdict(self) -> str:
        if not self.values:
            return "**not measured**"
        if self.missed:
            return "**missed**" + (f" in {len(self.missed)} of {len(self.values)}" if len(self.values) > 1 else "")
        return "aim reached" if all(self._reaches(value, self.aim) for value in self.values.values()) else "met"

    def row(self) -> list[str]:
        """What, the worst and the best figure with their cases, must, aim, verdict."""
        order = sorted(self.values, key=self.values.__getitem__, reverse=self.lower)
        ends = [f"{self.say(self.values[case])} ({case})" for case in (order[:1] + order[-1:] if order else ())]
        worst, best = ends or ("-", "-")
        bound = "at most " if self.lower else ""
        one = len(self.values) == 1
        return [
            self.what,
            worst,
            "" if one else best,
            f"{bound}{self.must:g}{self._unit}",
            f"{bound}{self.aim:g}{self._unit}",
            self.verdict,
        ]

    def say(self, value: float) -> str:
        digits = 0 if self.unit == "%" else 2 if value < 10 else 1
        return f"{value:.{digits}f}{self._unit}"

    @property
    def _unit(self) -> str:
        return "x" if self.unit == "x" else f" {self.unit}"

    def _reaches(self, value: float, bound: float) -> bool:
        return value <= bound if self.lower else value >= bound


HEADER = ["what", "worst case", "best case", "must", "aim", ""]


def figures(results: dict[str, dict]) -> list[Figure]:
    """Every line, in the order of the table of issue 3. What was not measured has no values."""
    return [*_slstm(results.get("slstm", {})), *_mlstm(results), *_language_models(results), *_threads(results)]


def ratios(cases: dict[str, dict[str, Spans]], kind: str, ours: str, peer: str, where: Callable = bool) -> dict:
    """How many times as long as `ours` the peer takes, in each case that has both."""
    return {
        case: found[kind][peer]["median"] / found[kind][ours]["median"]
        for case, found in cases.items()
        if where(case) and ours in found[kind] and peer in found[kind]
    }


def shares(part: dict, cell: str, kind: str, name: str = "cpu", where: Callable = bool) -> dict[str, float]:
    """Percent of the measured matrix-product limit that the useful operations of each case reach."""
    count = {"slstm": limits.slstm, "mlstm": limits.mlstm}[cell]
    best = part["limits"]["bf16" if name.endswith("bf16") else "float32"] if part else 0
    return {
        case: 100 * count(*numbers(case))[kind] / found[kind][name]["median"] / 1e6 / best
        for case, found in part.get("cases", {}).items()
        if where(case) and name in found[kind]
    }


def numbers(case: str) -> tuple[int, ...]:
    """The sizes that a case of a cell is named by: H, B, T of sLSTM, and B, T, K of mLSTM."""
    return tuple(map(int, case.split(",")))


def _slstm(part: dict) -> list[Figure]:
    cases, bound = part.get("cases", {}), (256, 32)  # there transcendental functions bound the cell
    names = {"forward": "forward", "both": "forward+backward"}

    def against(peer: str, kind: str, where: Callable, ours: str = "cpu") -> dict[str, float]:
        return ratios(cases, kind, ours, peer, lambda case: where(*numbers(case)))

    lines = []
    for kind, must, aim, bound_aim in (("forward", 3, 6, 3.5), ("both", 2.5, 4, 4)):
        rest = against("nn.LSTM", kind, lambda h, b, t: (h, b) != bound)
        lines.append(Figure(f"sLSTM cell {names[kind]} / `torch.nn.LSTM`", rest, must, aim))
        there = against("nn.LSTM", kind, lambda h, b, t: (h, b) == bound)
        lines.append(Figure(f"the same at H=256, B=32, {names[kind]}", there, must, bound_aim))
    for kind, must, late_aim in (("forward", 20, 40), ("both", 15, 100)):
        short = against("xlstm", kind, lambda h, b, t: b >= 8 and t < 1024 and (h, b) != bound)
        lines.append(Figure(f"sLSTM cell {names[kind]} / `xlstm`, B >= 8", short, must, 40))
        there = against("xlstm", kind, lambda h, b, t: (h, b) == bound)
        lines.append(Figure(f"the same at H=256, B=32, {names[kind]}", there, 15, 40))
        late = against("xlstm", kind, lambda h, b, t: b >= 8 and t >= 1024)
        lines.append(Figure(f"the same at T=1024, {names[kind]}", late, must, late_aim))
    for kind, aim in (("forward", 1.3), ("both", 1.5)):
        found = against("nn.LSTM", kind, lambda h, b, t: True, "sLSTM layer")
        lines.append(
            Figure(f"sLSTM layer with its dense input product / `torch.nn.LSTM`, {names[kind]}", found, 1.1, aim)
        )
    for words, where, must, aim in (
        ("B = 1", lambda h, b, t: b == 1, 1.5, 2),
        ("B >= 8", lambda h, b, t: b >= 8, 0.8, 1),
    ):
        for kind in names:
            found = against("nn.LSTM", kind, where, "LSTM layer")
            lines.append(Figure(f"our LSTM / `torch.nn.LSTM`, {words}, {names[kind]}", found, must, aim))
    for kind in names:
        found = shares(part, "slstm", kind, where=lambda case: numbers(case)[0] == 1024 and numbers(case)[1] >= 8)
        lines.append(Figure(f"share of GEMM limit, sLSTM H=1024, B >= 8, {names[kind]}", found, 65, 80, "%"))
    return lines


def _mlstm(results: dict[str, dict]) -> list[Figure]:
    part = results.get("mlstm", {})
    cases = part.get("cases", {})

    def wide(case: str) -> bool:
        return numbers(case)[2] == 128

    lines = [
        Figure("mLSTM forward / native_custbw, K=V=128", ratios(cases, "forward", "cpu", "native_custbw", wide), 2, 3)
    ]
    for steps, must, aim in ((1024, 3, 4), (4096, 10, 12), (16384, 40, 45)):
        found = ratios(cases, "forward", "cpu", "SDPA", lambda case, t=steps: wide(case) and numbers(case)[1] == t)
        lines.append(Figure(f"mLSTM forward / SDPA, T={steps}, K=V=128", found, must, aim))
    both = ratios(cases, "both", "cpu", "native_custbw", wide)
    lines.append(Figure("mLSTM forward+backward / native_custbw, K=V=128", both, 1.8, 2.5))
    lines.append(Figure("mLSTM peak memory / native_custbw", _memory(results.get("steps", {})), 0.7, 0.5, lower=True))
    for kind, words in (("forward", "forward"), ("both", "forward+backward")):
        lines.append(Figure(f"mLSTM share of GEMM limit, {words}", shares(part, "mlstm", kind), 65, 80, "%"))
    for kind, words in (("forward", "forward"), ("both", "forward+backward")):
        found = ratios(cases, kind, "cpu bf16", "cpu")
        lines.append(Figure(f"bf16 mLSTM / own float32, {words}", found, 1.3, 2))
    return lines


def _memory(steps: dict) -> dict[str, float]:
    """Our peak over the published one's, at the lengths where it is not lost in the noise of a process."""
    cells = steps.get("cells", {}).get("mLSTM", {})
    found = {name: dict(zip(one["T"], one["megabytes"], strict=True)) for name, one in cells.items()}
    ours, theirs = found.get("cpu", {}), found.get("native_custbw", {})
    return {f"T={size}": ours[size] / theirs[size] for size in theirs if size >= 4096 and size in ours}


def _language_models(results: dict[str, dict]) -> list[Figure]:
    spans = {case: {"all": found["spans"]} for case, found in results.get("lm", {}).get("cases", {}).items()}
    lines = []
    for words, ours, must, aim in (("float32", "ours", 1.1, 1.2), ("bf16 against its float32", "ours bf16", 1.5, 2)):
        for what in ("training", "prefill"):
            found = ratios(spans, "all", ours, "transformers xLSTM", lambda case, what=what: case.startswith(what))
            lines.append(Figure(f"LM {what} tokens/s / `transformers` xLSTM, {words}", found, must, aim))
    part = results.get("decode", {})
    cases = {case: {"all": found} for case, found in part.get("cases", {}).items()}

    def single(case: str) -> bool:
        return "B=1," in case

    found = ratios(cases, "all", "ours", "transformers xLSTM", single)
    lines.append(Figure("LM decode, batch 1 / `transformers` xLSTM", found, 1.7, 2.3))
    found = {case: share(part, case, "ours") for case in cases if single(case)}
    lines.append(Figure("LM decode, batch 1, share of memory limit", found, 60, 85, "%"))
    for kind, must, aim in (("bf16", 1.6, 1.9), ("int8", 2.5, 3.5)):
        found = ratios(cases, "all", f"ours {kind}", "ours", single)
        lines.append(Figure(f"{kind} decode / own float32, batch 1", found, must, aim))
    return lines


def share(part: dict, case: str, name: str) -> float:
    """Percent of the memory's limit: the least time in which a token's bytes can be read, over the time it took."""
    return 100 * least(part, case, name) / part["cases"][case][name]["median"]


def least(part: dict, case: str, name: str) -> float:
    """Milliseconds for the weights, once, and the state of every row, read and written."""
    facts = part["models"][case.split(",")[0]]
    rows = int(case.split("B=")[1].split(",")[0])
    return (facts["weight_bytes"][name] + 2 * rows * facts["state_bytes"]) / 1e6 / part["limits"]["read"]


def _threads(results: dict[str, dict]) -> list[Figure]:
    cases = results.get("threads", {}).get("cases", {})
    lines = []
    for kind, words in (("forward", "forward"), ("both", "forward+backward")):
        found = {case: spans[kind]["1"] / spans[kind]["2"] for case, spans in cases.items()}
        lines.append(Figure(f"two threads / one thread, sLSTM and mLSTM, B >= 8, {words}", found, 1.6, 1.9))
    return lines
