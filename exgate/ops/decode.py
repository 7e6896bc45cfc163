"""A step without gradients on a GPU: the cell, the norm of its heads and its gates in one launch, or two.

A layer asks here before it calls the op and the norm one by one: `mlstm` and `slstm` return y and the next state, or
None where there is nothing to gain: longer sequences, gradients, other devices, another backend asked for. One launch
needs a program that has a whole head. Where that would be too few programs to read the memory at the speed of the
device (a batch of 1), more of them take a part of a head each, and a second launch normalises.
"""

from typing import Any

import torch
from torch import Tensor

from exgate.ops import dispatch, gpu, native
from exgate.ops.headnorm import headnorm
from exgate.ops.headnorm.eager import kind
from exgate.ops.mlstm import MLSTMState
from exgate.ops.slstm import SLSTMState

SMALL = 2**14  # numbers of a head's memory or weights that one program reads in little more than a launch takes
MOST_ROWS = 8  # of sLSTM, whose weights are read for each row


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | None,
    norm: dict[str, Any],
    *,
    cap: float = 0.0,
    input_gate: str = "exp",
    eps: float = 0.0,
    reset: Tensor | None = None,
) -> tuple[Tensor, MLSTMState] | None:
    """headnorm(mlstm(q, k, v, cap(i), cap(f), state), **norm) and the state, if T is 1.

    cap(x) = cap tanh(x / cap); 0 caps nothing. The other arguments are those of `mlstm`.
    """
    (batch, _, heads, key), value = q.shape, v.shape[-1]
    sizes = (batch, heads, key, value), (batch, heads, key), (batch, heads)
    tensors = norm["weight"], norm.get("gate"), *norm.get("skip", ())
    if not (_applies(q, k, v, i, f, *(state or ()), *tensors) and _fits(batch, state, sizes, reset)):
        return None
    old = (None, None, None) if state is None else state
    cell = (*(x[:, 0] for x in (q, k, v, i, f)), *old, reset)
    options = (cap, input_gate == "exp", True, eps)
    if mlstm_tiles(batch * heads, key, value, gpu.target(q.device).processors)[1] < value:
        h, *new = torch.ops.exgate.mlstm_decode(*cell, *options)
        y = headnorm(h[:, None], **norm)
    else:
        y, *new = torch.ops.exgate.mlstm_decode(*cell, *options, *_norm(norm))
        y = y[:, None].flatten(-2)
    return y, MLSTMState(*new)


def slstm(
    x: Tensor,
    r: Tensor,
    state: SLSTMState | None,
    norm: dict[str, Any],
    *,
    forget_gate: str = "sigmoid",
    reset: Tensor | None = None,
) -> tuple[Tensor, SLSTMState] | None:
    """headnorm(slstm(x, r, state), **norm), which has no gate and no skip, and the state, if T is 1."""
    batch, steps, _, heads, size = x.shape
    if steps != 1 or batch > MOST_ROWS or not _applies(x, r, *(state or ()), norm["weight"]):
        return None
    if not _fits(batch, state, ((batch, heads, size),) * 4, reset):
        return None
    old = (None, None, None, None) if state is None else state
    whole = slstm_tiles(batch * heads, size, gpu.target(x.device).processors)[0] >= size
    cell = x[:, 0], r, *old, reset, forget_gate == "exp"
    if whole:
        y, *new = torch.ops.exgate.slstm_decode(*cell, norm["weight"], norm["eps"], norm["rms"], norm["offset"])
        y = y.flatten(-2)
    else:
        h, *new = torch.ops.exgate.slstm_decode(*cell)
        y = headnorm(h, **norm)
    return y[:, None], SLSTMState(*new)


def _norm(norm: dict[str, Any]) -> tuple:
    """weight, gate, u, factor, eps, rms, offset, silu of a step as `mlstm_decode` takes them."""
    gate, skip = norm.get("gate"), norm.get("skip")
    after = (None if gate is None else gate[:, 0], *((None, None) if skip is None else (skip[0][:, 0], skip[1])))
    return norm["weight"], *after, norm["eps"], norm["rms"], norm["offset"], norm.get("activation") == "silu"


def _applies(first: Tensor, *others: Tensor | None) -> bool:
    if first.shape[1] != 1 or dispatch.forced() not in (None, "triton") or dispatch.transformed():
        return False
    return gpu.refuses(first, *others) is None and not native.saves(first, *others)


def _fits(batch: int, state, sizes, reset: Tensor | None) -> bool:
    """Whether state and reset are what they should be: if not, the op says what is wrong."""
    same = state is None or all(part.shape == size for part, size in zip(state, sizes, strict=True))
    return same and (reset is None or (reset.dtype == torch.bool and reset.shape == (batch, 1)))


def mlstm_tiles(sequences: int, key: int, value: int, processors: int) -> tuple[int, int]:
    """Rows and columns of a tile of the memory, 32 numbers per thread; all columns if a program can have a head.

    `sequences` are batch times heads. With fewer columns there are two programs for each processor, or 16 columns.
    """
    columns = gpu.power_of_two(value)
    if sequences < processors and key * value > SMALL:
        while columns > 16 and sequences * -(-value // columns) < 2 * processors:
            columns //= 2
    return min(gpu.power_of_two(key, 1), max(1, 4096 // columns)), columns


def slstm_tiles(sequences: int, size: int, processors: int) -> tuple[int, int, int]:
    """Rows (cells), columns (cells before) and warps of a tile of weights; all rows if a program can have a head."""
    rows = min(256, gpu.power_of_two(size))
    if sequences < processors and 4 * size * size > SMALL:
        while rows > 4 and sequences * -(-size // rows) < 2 * processors:
            rows //= 2
    columns = min(gpu.power_of_two(size), max(16, 1024 // rows))
    return rows, columns, min(16, max(4, rows * columns // 256))


@torch.library.custom_op("exgate::mlstm_decode", mutates_args=())
def _mlstm(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor | None, n: Tensor | None, m: Tensor | None,
    reset: Tensor | None, cap: float, exponential: bool, normalize: bool, eps: float,
    weight: Tensor | None = None, gate: Tensor | None = None, u: Tensor | None = None, factor: Tensor | None = None,
    norm_eps: float = 0.0, rms: bool = False, offset: bool = False, silu: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k (B, H, K), v (B, H, V), i, f (B, H), the state -> y (B, H, V), h without a weight, and the next state."""
    from exgate.ops.mlstm import triton_step

    out = _mlstm_results(q, v, gate, u)
    batch, heads, key = q.shape
    value = v.shape[-1]
    tensors = [q, k, v, i, f, c, n, m, None if reset is None else reset.view(torch.uint8), weight, gate, u, factor]
    rows, columns = mlstm_tiles(batch * heads, key, value, gpu.target(q.device).processors)
    gpu.launch(
        triton_step.step, (batch * heads, -(-value // columns)), *native.contiguous(*tensors), *out, cap, eps, norm_eps,
        key**-0.5, H=heads, K=key, V=value, BK=rows, BV=columns, EXPONENTIAL=exponential, NORMALIZE=normalize,
        CAPPED=cap != 0, EMPTY=c is None, RESETS=reset is not None, RMS=rms, OFFSET=offset, SILU=silu,
    )  # fmt: skip
    return out


@torch.library.custom_op("exgate::slstm_decode", mutates_args=())
def _slstm(
    x: Tensor, r: Tensor, h: Tensor | None, c: Tensor | None, n: Tensor | None, m: Tensor | None, reset: Tensor | None,
    exp_f: bool, weight: Tensor | None = None, norm_eps: float = 0.0, rms: bool = False, offset: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """x (B, 4, H, K) and the state -> y (B, H, K), h without a weight, and the next state."""
    from exgate.ops.slstm import triton_step

    out = _slstm_results(x)
    batch, _, heads, size = x.shape
    tensors = [x, r, h, c, n, m, None if reset is None else reset.view(torch.uint8), weight]
    rows, columns, warps = slstm_tiles(batch * heads, size, gpu.target(x.device).processors)
    gpu.launch(
        triton_step.step, (batch * heads, -(-size // rows)), *native.contiguous(*tensors), *out, norm_eps,
        H=heads, K=size, BO=rows, BI=columns, EXP_F=exp_f, EMPTY=h is None, RESETS=reset is not None,
        RMS=rms, OFFSET=offset, warps=warps,
    )  # fmt: skip
    return out


def _mlstm_results(
    q: Tensor, v: Tensor, gate: Tensor | None, u: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, heads, key), value = q.shape, v.shape[-1]
    shapes = (batch, heads, key, value), (batch, heads, key), (batch, heads)
    c, n, m = (q.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return v.new_empty(v.shape, dtype=kind(v, gate, u)), c, n, m


def _slstm_results(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, heads, size = x.shape
    h, c, n, m = (x.new_empty(batch, heads, size, dtype=torch.float32) for _ in range(4))
    return x.new_empty(batch, heads, size), h, c, n, m


@_mlstm.register_fake
def _(q, k, v, i, f, c, n, m, reset, cap, exponential, normalize, eps, weight=None, gate=None, u=None, *others):
    return _mlstm_results(q, v, gate, u)


@_slstm.register_fake
def _(x, *others):
    return _slstm_results(x)
