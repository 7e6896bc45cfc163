"""How fast are the recurrences, beside the published ones and PyTorch's own, and how near to the machine's limits?

    python -m benchmarks.cells [--quick] [--seconds N] [--only slstm|mlstm]

One thread, one process, contenders in turn, medians.
"""

from benchmarks import contenders, timing
from benchmarks.limits import limits

# H, B, T. The published loop takes minutes forward and backward at the last.
SLSTM = [
    (256, 1, 256),
    (256, 8, 256),
    (256, 32, 256),
    (1024, 1, 256),
    (1024, 8, 256),
    (1024, 32, 256),
    (256, 8, 1024),
]
MINUTES = {("xlstm", "both", (1024, 32, 256))}
# B, T, K = V
MLSTM = [
    (1, 1024, 64),
    (1, 1024, 128),
    (1, 1024, 256),
    (8, 1024, 128),
    (1, 4096, 128),
    (1, 4096, 256),
    (1, 16384, 128),
]


def slstm(options) -> dict:
    names = ("eager", "cpu", "sLSTM layer", "LSTM layer", "nn.LSTM", "xlstm")
    bounds, cases = None, {}
    for case in SLSTM[1:2] if options.quick else SLSTM:
        bounds = limits(bounds)
        makes = contenders.slstm(*case, names)
        cases[_key(case)] = {
            kind: timing.side_by_side(
                {name: getattr(one, kind) for name, one in makes.items() if (name, kind, case) not in MINUTES},
                seconds=options.seconds,
            )
            for kind in ("forward", "both")
        }
        print(".", end="", flush=True)
    return {"limits": bounds, "cases": cases}


def mlstm(options) -> dict:
    bounds, cases = None, {}
    for case in MLSTM[1:2] if options.quick else MLSTM:
        bounds, steps, found = limits(bounds), case[1], {}
        for kind in ("forward", "both"):
            names = ["eager", "cpu", "cpu bf16", "native_custbw"]
            names += ["xlstm parallel"] if steps <= 1024 else []  # its memory grows with the square of T
            names += ["SDPA"] if steps <= 4096 or kind == "forward" else []
            makes = contenders.mlstm(*case, tuple(names))
            calls = {name: getattr(one, kind) for name, one in makes.items()}
            found[kind] = timing.side_by_side(calls, seconds=options.seconds)
        cases[_key(case)] = found
        print(".", end="", flush=True)
    return {"limits": bounds, "cases": cases}


def _key(case: tuple[int, ...]) -> str:
    return ", ".join(map(str, case))


if __name__ == "__main__":
    timing.main(__doc__, {"slstm": slstm, "mlstm": mlstm})
