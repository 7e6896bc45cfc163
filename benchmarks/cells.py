"""How fast are the recurrences, beside the published ones and PyTorch's own?

    python -m benchmarks.cells [--quick] [--threads N]

One process, contenders in turn, medians. Pre-activations (sLSTM) and q, k, v and gates (mLSTM) are given: the cells
alone. `torch.nn.LSTM` also does its dense input product and a dense recurrence, four times the recurrent operations of
four heads. Peak memory is measured in a fresh process per contender, above the inputs.
"""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.timing import machine, publish, save, sentence, side_by_side, table
from exgate import ops

HEADS = 4


def _both(call: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward with backward, of a call."""
    weight = torch.randn_like(call())

    def forward() -> None:
        with torch.no_grad():
            call()

    def both() -> None:
        torch.autograd.grad(call(), leaves, weight)

    return {"forward": forward, "both": both}


def _slstm(hidden: int, batch: int, steps: int, names: tuple[str, ...]) -> dict[str, dict[str, Callable]]:
    from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

    size = hidden // HEADS
    x = torch.randn(batch, steps, 4, HEADS, size, requires_grad=True)
    r = (torch.randn(4, HEADS, size, size) / size**0.5).requires_grad_()
    config = sLSTMCellConfig(hidden_size=hidden, num_heads=HEADS, num_states=4, backend="vanilla", function="slstm")
    theirs = sLSTMCell(config)
    flat = x.detach().flatten(2).clone().requires_grad_()
    lstm = torch.nn.LSTM(hidden, hidden)
    sequence = torch.randn(steps, batch, hidden, requires_grad=True)
    calls = {
        "eager": (lambda: ops.slstm(x, r, backend="eager")[0], [x, r]),
        "cpu": (lambda: ops.slstm(x, r, backend="cpu")[0], [x, r]),
        "xlstm": (lambda: theirs(flat)[0], [flat, *theirs.parameters()]),
        "nn.LSTM": (lambda: lstm(sequence)[0], [sequence, *lstm.parameters()]),
    }
    return {name: _both(*calls[name]) for name in names}


def _mlstm(batch: int, steps: int, size: int, names: tuple[str, ...]) -> dict[str, dict[str, Callable]]:
    from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_custbw
    from xlstm.blocks.mlstm.backends import parallel_stabilized_simple

    ours = [torch.randn(batch, steps, HEADS, size, requires_grad=True) for _ in range(3)]
    i = torch.randn(batch, steps, HEADS, requires_grad=True)
    f = (torch.randn(batch, steps, HEADS) + 3).requires_grad_()
    q, k, v = (x.detach().transpose(1, 2).contiguous().requires_grad_() for x in ours)
    gates = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (i, f)]
    tall = [x.detach()[..., None].clone().requires_grad_() for x in gates]
    calls = {
        "eager": (lambda: ops.mlstm(*ours, i, f, eps=1e-6, backend="eager")[0], [*ours, i, f]),
        "cpu": (lambda: ops.mlstm(*ours, i, f, eps=1e-6, backend="cpu")[0], [*ours, i, f]),
        "native_custbw": (
            lambda: mlstm_chunkwise__native_custbw(q, k, v, *gates, chunk_size=64, eps=1e-6),
            [q, k, v, *gates],
        ),
        "xlstm parallel": (lambda: parallel_stabilized_simple(q, k, v, *tall), [q, k, v, *tall]),
        "SDPA": (lambda: scaled_dot_product_attention(q, k, v, is_causal=True), [q, k, v]),
    }
    return {name: _both(*calls[name]) for name in names}


def _compare(contenders: dict[str, dict[str, Callable]], seconds: float) -> dict:
    return {
        kind: side_by_side({name: calls[kind] for name, calls in contenders.items()}, seconds=seconds)
        for kind in ("forward", "both")
    }


def _ratios(found: dict, peers: list[str]) -> list[str]:
    """Cells of a row: our two backends with their spread, then each peer with how many times as long it takes."""
    cells = []
    for kind in ("forward", "both"):
        eager, cpu = found[kind]["eager"], found[kind]["cpu"]
        cells += [f"{ours['median']:.1f} [{ours['min']:.1f}, {ours['max']:.1f}]" for ours in (eager, cpu)]
        for peer in peers:
            theirs = found[kind].get(peer)
            times = theirs and ", ".join(f"{theirs['median'] / ours['median']:.2f}x" for ours in (eager, cpu))
            cells.append(f"{theirs['median']:.1f} ({times})" if theirs else "-")
    return cells


def _header(first: str, peers: list[str]) -> list[str]:
    columns = ("eager [min, max]", "cpu [min, max]", *peers)
    return [first, *(f"{kind}, {name}" for kind in ("forward", "f+b") for name in columns)]


def _slope(steps: list[int], spans: list[float]) -> float:
    """The exponent of growth: least squares in the logarithms."""
    x, y = [math.log(s) for s in steps], [math.log(s) for s in spans]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


def growth(quick: bool) -> tuple[dict, list[list[str]]]:
    """Milliseconds forward and backward over T, and the slope in the log-log plane."""
    result, rows = {}, []
    short, long = ([256, 512, 1024], [512, 1024, 2048]) if quick else ([256, 1024, 4096], [1024, 4096, 16384])
    cases = {
        **{f"sLSTM {name}": (short, partial(_slstm, 256, 8), name) for name in ("eager", "cpu")},
        "sLSTM xlstm": ([128, 256] if quick else [128, 256, 512], partial(_slstm, 256, 8), "xlstm"),
        **{f"mLSTM {name}": (long, lambda t, names: _mlstm(1, t, 128, names), name) for name in ("eager", "cpu")},
    }
    for name, (steps, make, who) in cases.items():
        calls = (make(t, (who,))[who]["both"] for t in steps)
        spans = [side_by_side({"call": call}, seconds=4, rounds=5)["call"]["median"] for call in calls]
        result[name] = {"steps": steps, "milliseconds": spans, "slope": _slope(steps, spans)}
        listed = ", ".join(f"{t}: {span:.0f}" for t, span in zip(steps, spans, strict=True))
        rows.append([name, listed, f"{_slope(steps, spans):.2f}"])
    return result, rows


def _status(field: str) -> int:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))


def peak(name: str, batch: int, steps: int, size: int) -> float:
    """Megabytes above the inputs, forward and backward, in this process. Linux only."""
    _mlstm(1, 128, size, (name,))[name]["both"]()  # what libraries allocate once is not the call's
    call = _mlstm(batch, steps, size, (name,))[name]["both"]
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the high-water mark starts anew
    call()
    return (_status("VmHWM") - before) / 1024


def _peak_apart(name: str, case: tuple[int, int, int]) -> float:
    code = f"from benchmarks.cells import peak; print(peak({name!r}, *{case!r}))"
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # glibc's own allocator: freed memory goes back
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(found.stdout)


def slstm(quick: bool, seconds: float) -> tuple[dict, str]:
    """The sLSTM cell beside the published one and `torch.nn.LSTM`."""
    small = [(256, 8, 256)]
    sizes = small if quick else [(256, 1, 256), *small, (256, 32, 256), (1024, 1, 256), (1024, 8, 256)]
    slow = {(256, 32, 256), (1024, 8, 256)}  # the published loop takes up to half a minute there
    result, rows = {}, []
    for case in sizes:
        names = ("eager", "cpu", *(("nn.LSTM",) if case in slow else ("xlstm", "nn.LSTM")))
        result[",".join(map(str, case))] = found = _compare(_slstm(*case, names), seconds)
        rows.append([", ".join(map(str, case)), *_ratios(found, ["xlstm", "nn.LSTM"])])
        print(rows[-1], flush=True)
    title = "**sLSTM cell**, 4 heads, float32, milliseconds (in brackets: how many times as long as eager, as cpu):\n\n"
    return result, title + table(_header("H, B, T", ["xlstm", "nn.LSTM"]), rows)


def mlstm(quick: bool, seconds: float) -> tuple[dict, str]:
    """mLSTM beside the published chunkwise and parallel forms, and attention."""
    small, large = [(1, 1024, 128)], [(8, 1024, 128), (1, 4096, 128), (1, 4096, 256)]
    peers = ["native_custbw", "xlstm parallel", "SDPA"]
    result, rows = {}, []
    for case in small if quick else [(1, 1024, 64), *small, *large]:
        names = ("eager", "cpu", *(peer for peer in peers if case[1] <= 1024 or peer != "xlstm parallel"))
        result[",".join(map(str, case))] = found = _compare(_mlstm(*case, names), seconds)
        rows.append([", ".join(map(str, case)), *_ratios(found, peers)])
        print(rows[-1], flush=True)
    title = "**mLSTM**, 4 heads, float32, milliseconds (in brackets: how many times as long as eager, as cpu):\n\n"
    return result, title + table(_header("B, T, K=V", peers), rows)


def memory(quick: bool) -> tuple[dict, str]:
    """Peak memory of mLSTM beside the published chunkwise form."""
    steps = 1024 if quick else 4096
    found = {name: _peak_apart(name, (1, steps, 128)) for name in ("eager", "cpu", "native_custbw")}
    listed = ", ".join(f"{name} {megabytes:.0f} MB" for name, megabytes in found.items())
    text = (
        f"Peak memory above the inputs, mLSTM forward and backward, B=1, T={steps}, K=V=128, in a process of its own, "
        f"with glibc's default allocator: {listed}."
    )
    return found, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller sizes, nothing written")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    facts, seconds = machine(), 3 if options.quick else 8
    results, texts = {"machine": facts}, []
    results["slstm"], text = slstm(options.quick, seconds)
    texts.append(text)
    results["mlstm"], text = mlstm(options.quick, seconds)
    texts.append(text)
    results["peak_megabytes"], text = memory(options.quick)
    texts.append(text)
    results["growth"], rows = growth(options.quick)
    texts.append("**Growth over T**, forward and backward (sLSTM H=256, B=8; mLSTM B=1, K=V=128):\n")
    texts.append(table(["cell", "T: milliseconds", "slope, log-log"], rows))
    texts.append(sentence(facts))
    print("\n\n".join(texts))
    if not options.quick:
        save("cells", results)
        publish("cells", "\n\n".join(texts))


if __name__ == "__main__":
    main()
