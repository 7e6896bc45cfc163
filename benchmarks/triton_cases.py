"""The calls whose kernels are shipped: every op that has a Triton backend, at the sizes that models use.

Made to be recorded (`exgate.ops.gpu.recording`): inputs are memory that nobody has written, and nothing is computed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from exgate import ops
from exgate.models.cross_entropy import cross_entropy
from exgate.ops import decode, gpu, persistent

KINDS = {"bf16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MLSTM = [(64, 64), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]  # K, V
CHANNELS = [768, 4096]  # D of conv, and H V of headnorm
HEADS = [16, 64, 128, 192, 256, 512, 768]  # K of slstm and lstm
VOCABULARY = 50304
BATCH, STEPS = 2, 2048


@dataclass(frozen=True)
class Case:
    """One call, forward or with backward, in words: op, size, type of the inputs, and what else tells it apart."""

    op: str
    size: str
    kind: str
    variant: str
    call: Callable[[], object]

    def __str__(self) -> str:
        return " ".join(filter(None, (self.op, self.size, self.kind, self.variant)))


def cases(quick: bool = False) -> Iterator[Case]:
    """All of them, or a handful whose kernels take some seconds to compile."""
    for make in (mlstm, recurrent, conv, headnorm, steps, losses):
        yield from make(quick)


def mlstm(quick: bool) -> Iterator[Case]:
    """All that a call can ask for (documents, states, the gate that needs a stabiliser); at one size the rest, too."""
    for key, value in MLSTM[2:3] if quick else MLSTM:
        variants = [("bf16", "exp", True, STEPS), ("float32", "exp", True, STEPS)]
        if (key, value) == (128, 256):
            variants += [("float16", "exp", True, STEPS), ("bf16", "sigmoid", False, STEPS), ("bf16", "exp", False, 64)]
        for kind, gate, whole, steps in variants[:1] if quick else variants:
            variant = f"{gate}{', reset, states' if whole else ', one chunk' if steps == 64 else ''}"
            call = partial(_mlstm, key, value, kind, gate, whole, steps)
            yield Case("mlstm", f"K={key} V={value}", kind, variant, call)


def recurrent(quick: bool) -> Iterator[Case]:
    """Two batches, since many sequences make larger tiles. LSTM has the kernels of sLSTM, with less in them."""
    options = [("slstm", {}, HEADS), ("slstm", {"forget_gate": "exp"}, [64]), ("lstm", {}, [64, 768])]
    for op, option, sizes in options[:1] if quick else [*options, ("lstm", {"peephole": True}, [64])]:
        for size in [64] if quick else sizes:
            variants = [("bf16", True, 16), ("bf16", False, 256), ("float32", True, 16)]
            for kind, whole, batch in variants[:1] if quick else variants:
                words = [*option, f"batch {batch}", *(("reset, states",) if whole else ())]
                call = partial(_recurrent, op, size, kind, option, whole, batch, max(1, 768 // size))
                yield Case(op, f"K={size}", kind, ", ".join(words), call)
    for size in () if quick else HEADS:
        for kind in KINDS:
            for heads in _cuts(size, kind):
                call = partial(_recurrent, "slstm", size, kind, {}, True, 1, heads)
                yield Case("slstm", f"K={size}", kind, f"{heads} heads, reset, states", call)


def _cuts(size: int, kind: str) -> list[int]:
    """Numbers of heads that one of the targets cuts into tiles that 768 channels are not cut into."""
    found: dict[tuple, int] = {}
    for target in (gpu.SM80, gpu.SM90, gpu.GFX942):
        for heads in (max(1, 768 // size), *(2**power for power in range(8))):
            for batch in (16, 256, 1):
                x = torch.empty(batch, 1, 4, heads, size, dtype=KINDS[kind], device="meta")
                with gpu.recording(target):
                    cut = persistent.cut_of(x)
                found.setdefault((target, cut.tile, cut.rows, cut.block, cut.waits), heads)
    return sorted({heads for heads in found.values() if heads != max(1, 768 // size)})


def conv(quick: bool) -> Iterator[Case]:
    for dim in CHANNELS[:1] if quick else CHANNELS:
        for kind in ("bf16",) if quick else ("bf16", "float32"):
            for activation, whole in ((None, True), ("silu", False))[: 1 if quick else 2]:
                variant = f"{activation or 'linear'}{', reset, states' if whole else ''}"
                yield Case("conv", f"D={dim}", kind, variant, partial(_conv, dim, kind, activation, whole))


def headnorm(quick: bool) -> Iterator[Case]:
    for dim in CHANNELS[:1] if quick else CHANNELS:
        for kind in ("bf16",) if quick else ("bf16", "float32"):
            for heads, after in ((4, "gate, skip"), (4, "gate"), (1, ""))[: 1 if quick else 3]:
                variant = f"variance, {after}" if after else "root mean square"
                call = partial(_headnorm, dim, heads, kind, after)
                yield Case("headnorm", f"H={heads} V={dim // heads}", kind, variant, call)


def steps(quick: bool) -> Iterator[Case]:
    """A row and many: one step takes one launch where there is work for all processors, else two."""
    for batch in (1,) if quick else (1, 256):
        for key, value in MLSTM[-1:] if quick else MLSTM[::2] + MLSTM[-1:]:
            call = partial(_mlstm_step, key, value, batch)
            yield Case("mlstm step", f"K={key} V={value}", "bf16", f"batch {batch}", call)
        for size in (64,) if quick else (64, 192, 768):
            call = partial(_slstm_step, size, min(batch, decode.MOST_ROWS))
            yield Case("slstm step", f"K={size}", "bf16", f"batch {batch}", call)


def losses(quick: bool) -> Iterator[Case]:
    for kind in ("bf16",) if quick else ("bf16", "float32"):
        for soft_cap in (30.0,) if quick else (0.0, 30.0):
            variant = "soft cap" if soft_cap else "no cap"
            yield Case("cross-entropy", f"V={VOCABULARY}", kind, variant, partial(_losses, kind, soft_cap))


def _leaf(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=kind).requires_grad_()


def _mlstm(key: int, value: int, kind: str, gate: str, whole: bool, steps: int) -> None:
    leaves = [_leaf(BATCH, steps, 1, size, kind=KINDS[kind]) for size in (key, key, value)]
    leaves += [_leaf(BATCH, steps, 1) for _ in range(2)]
    start = ops.MLSTMState(_leaf(BATCH, 1, key, value), _leaf(BATCH, 1, key), torch.empty(BATCH, 1))
    call = partial(ops.mlstm, *leaves, start if whole else None, input_gate=gate, eps=1e-6, backend="triton")
    _forward_and_backward(call, whole, leaves, start if whole else ())


def _recurrent(op: str, size: int, kind: str, option: dict, whole: bool, batch: int, heads: int) -> None:
    steps = 2
    leaves = [_leaf(batch, steps, 4, heads, size, kind=KINDS[kind]), _leaf(4, heads, size, size)]
    if "peephole" in option:
        leaves.append(_leaf(3, heads, size))
        option = {"peephole": leaves[-1]}
    kinds = {"slstm": ops.SLSTMState, "lstm": ops.LSTMState}
    start = kinds[op](*(_leaf(batch, heads, size) for _ in kinds[op]._fields))
    call = partial(getattr(ops, op), *leaves[:2], start if whole else None, backend="triton", **option)
    _forward_and_backward(call, whole, leaves, start if whole else ())


def _conv(dim: int, kind: str, activation: str | None, whole: bool) -> None:
    steps = STEPS // 16
    leaves = [_leaf(BATCH, steps, dim, kind=KINDS[kind]), _leaf(dim, 4), _leaf(dim)]
    start = ops.ConvState(_leaf(BATCH, 3, dim))
    call = partial(ops.conv, *leaves, start if whole else None, activation=activation, backend="triton")
    _forward_and_backward(call, whole, leaves, start if whole else ())


def _headnorm(dim: int, heads: int, kind: str, after: str) -> None:
    x, weight = _leaf(BATCH, STEPS // 16, heads, dim // heads, kind=KINDS[kind]), _leaf(heads, dim // heads)
    gate, u = (_leaf(BATCH, STEPS // 16, dim, kind=KINDS[kind]) for _ in range(2))
    skip = [u, _leaf(dim)] if "skip" in after else []
    leaves = [x, weight, *[gate] * bool(after), *skip]
    options = {"rms": not after, "activation": "silu" if skip else "sigmoid"}
    y = ops.headnorm(*leaves[:3], tuple(skip) or None, backend="triton", **options)
    torch.autograd.grad(y, leaves, torch.empty_like(y))


@torch.no_grad()
def _mlstm_step(key: int, value: int, batch: int) -> None:
    heads = 4
    given = [torch.empty(batch, 1, heads, size, dtype=torch.bfloat16) for size in (key, key, value)]
    given += [torch.empty(batch, 1, heads) for _ in range(2)]
    gate = torch.empty(batch, 1, heads * value, dtype=torch.bfloat16)
    state = ops.MLSTMState(*(torch.empty(batch, heads, *shape) for shape in ((key, value), (key,), ())))
    norm = {"weight": torch.empty(heads, value), "gate": gate, "eps": 1e-6, "rms": False, "offset": False}
    skip = {"skip": (gate, torch.empty(heads * value)), "activation": "silu", "offset": True}
    for cap, after, reset in ((15.0, {}, None), (0.0, skip, torch.empty(batch, 1).bool())):
        decode.mlstm(*given, state, norm | after, cap=cap, eps=1e-6, reset=reset)


@torch.no_grad()
def _slstm_step(size: int, batch: int) -> None:
    heads = max(1, 768 // size)
    x, r = torch.empty(batch, 1, 4, heads, size, dtype=torch.bfloat16), torch.empty(4, heads, size, size)
    state = ops.SLSTMState(*(torch.empty(batch, heads, size) for _ in range(4)))
    norm = {"weight": torch.empty(heads, size), "eps": 1e-5, "rms": False}
    for reset in (None, torch.empty(batch, 1).bool()):
        decode.slstm(x, r, state, norm | {"offset": reset is not None}, reset=reset)


def _forward_and_backward(call: Callable, whole: bool, leaves: list[Tensor], start: tuple) -> None:
    """As in training, from h, and if `whole` from every part of the state with a derivative; else alone before, too."""
    reset = torch.empty(leaves[0].shape[:2], dtype=torch.bool) if whole else None
    if not whole:
        with torch.no_grad():
            call(reset=reset)
    output, state = call(reset=reset)
    ends = [x for x in (output, *(state if whole else ())) if x.requires_grad]
    gradients = [torch.empty_like(x) for x in ends]
    torch.autograd.grad(ends, [*leaves, *(x for x in start if x.requires_grad)], gradients, allow_unused=True)


def _losses(kind: str, soft_cap: float) -> None:
    x, weight = _leaf(2, 16, kind=KINDS[kind]), _leaf(VOCABULARY, 16, kind=KINDS[kind])
    loss = cross_entropy(x, weight, torch.zeros(2, dtype=torch.long), soft_cap=soft_cap)
    torch.autograd.grad(loss, [x, weight], torch.empty_like(loss))
