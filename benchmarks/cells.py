"""How fast are the recurrences, beside the published ones and PyTorch's own, and how near to the machine's limits?

    python -m benchmarks.cells [--quick] [--seconds N] [--only slstm|mlstm|channels]

One thread, one process, contenders in turn, medians.
"""

from benchmarks import contenders, timing
from benchmarks.limits import limits

# H, B, T
SLSTM = [
    (256, 1, 256),
    (256, 8, 256),
    (256, 32, 256),
    (1024, 1, 256),
    (1024, 8, 256),
    (1024, 32, 256),
    (256, 8, 1024),
]
# Published loops that take minutes, forward and backward.
MINUTES = {("xlstm", "both", (1024, 32, 256)), ("transformers", "both", ("Mamba layer", (2, 1024, 768)))}
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
# op: B, T, D
CHANNELS = [
    (op, case) for op in ("conv", "headwise", "wkv", "ssm", "Mamba layer") for case in ((8, 256, 256), (2, 1024, 768))
]


def slstm(options) -> dict:
    names = ("eager", "cpu", "sLSTM layer", "LSTM layer", "nn.LSTM", "xlstm")
    bounds, cases = None, {}
    for case in SLSTM[1:2] if options.quick else SLSTM:
        bounds = limits(bounds)
        makes = contenders.slstm(*case, names)
        cases[_key(case)] = _both(makes, case, options.seconds)
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


def channels(options) -> dict:
    cases = {}
    for op, case in CHANNELS[::2] if options.quick else CHANNELS:
        makes = contenders.channels(op, *case)
        cases[f"{op} {_key(case)}"] = _both(makes, (op, case), options.seconds)
        print(".", end="", flush=True)
    return {"cases": cases}


def _both(makes: dict[str, contenders.Contender], case: tuple, seconds: float) -> dict:
    """Forward, and with backward, of all that do not take minutes."""
    return {
        kind: timing.side_by_side(
            {name: getattr(one, kind) for name, one in makes.items() if (name, kind, case) not in MINUTES},
            seconds=seconds,
        )
        for kind in ("forward", "both")
    }


def _key(case: tuple[int, ...]) -> str:
    return ", ".join(map(str, case))


if __name__ == "__main__":
    timing.main(__doc__, {"slstm": slstm, "mlstm": mlstm, "channels": channels})
