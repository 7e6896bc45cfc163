"""The selective scan on the vectors of the CPU: cpu.cpp as custom ops, in float32."""

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.autograd import once
from exgate.ops.ssm import eager, step

SEGMENT, LONGEST = 32, 256  # steps between the states that forward keeps; more would not stay in cache


def refuses(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip, state, reset, chunk_size) -> str | None:
    return native.refuses(u, delta, a, b, c, skip, *state)


def run(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, state, reset, chunk_size):
    if u.shape[1] == 1:
        return step.run(u, delta, a, b, c, skip, state, reset)
    (h,), kind = state, u.dtype
    saves = native.saves(u, delta, a, b, c, skip, h)
    skip = None if skip is None else skip.float()
    size = min(chunk_size or SEGMENT, LONGEST, u.shape[1])
    inputs = (x.float() for x in (u, delta, a, b, c))
    y, h, _ = torch.ops.exgate.ssm_cpu(*inputs, skip, h, reset, size, saves)
    return y.to(kind), type(state)(h)


def _turned(x: Tensor) -> Tensor:
    """(..., D, N) as (..., N, D), without gaps."""
    return x.transpose(-1, -2).contiguous()


@torch.library.custom_op("exgate::ssm_cpu", mutates_args=(), device_types="cpu")
def _forward(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, h: Tensor, reset: Tensor | None,
    size: int, saves: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, the last state, and for backward the state before each segment, (B, segments, N, D)."""
    u, delta, b, c, skip, reset = native.contiguous(u, delta, b, c, skip, reset)
    y, start = torch.empty_like(u), _turned(h)
    last, kept = torch.empty_like(start), _kept(u, h, size) if saves else None
    sizes = (*u.shape, a.shape[1], size, native.threads())
    native.call("exgate_ssm_forward", u, delta, _turned(a), b, c, skip, start, reset, y, last, kept, *sizes)
    return y, _turned(last), u.new_empty(0) if kept is None else kept


def _kept(u: Tensor, h: Tensor, size: int) -> Tensor:
    batch, channels, states = h.shape
    return u.new_empty(batch, -(-u.shape[1] // size), states, channels)


@once
@torch.library.custom_op("exgate::ssm_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dy: Tensor, dh: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None,
    reset: Tensor | None, kept: Tensor, size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dy, u, delta, b, c, skip, reset = native.contiguous(dy, u, delta, b, c, skip, reset)
    du, ddelta, db, dc = (torch.empty_like(x) for x in (u, delta, b, c))
    dlast, dskip = _turned(dh), u.new_empty(u.shape[0], u.shape[2])
    da, dstart = torch.empty_like(dlast), torch.empty_like(dlast)
    inputs = (dy, dlast, u, delta, _turned(a), b, c, skip, reset, kept)
    sizes = (*u.shape, a.shape[1], size, native.threads())
    native.call("exgate_ssm_backward", *inputs, du, ddelta, da, db, dc, dskip, dstart, *sizes)
    return du, ddelta, _turned(da.sum(0)), db, dc, dskip.sum(0), _turned(dstart)


@_forward.register_fake
def _(u, delta, a, b, c, skip, h, reset, size, saves):
    return u.new_empty(u.shape), h.new_empty(h.shape), _kept(u, h, size) if saves else u.new_empty(0)


_backward.register_fake(eager.gradients)
_forward.register_autograd(eager.backward_by("ssm_cpu_backward"), setup_context=eager.save)
