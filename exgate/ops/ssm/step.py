"""A single step of the selective scan without gradients, by the instruction of program.cpp."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.ssm import reference


def run(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, state, reset: Tensor | None):
    if native.saves(u, delta, a, b, c, skip, *state):
        return reference.run(u, delta, a, b, c, skip, state, reset)
    (h,) = state
    h = h if reset is None else h.masked_fill(reset[..., None], 0.0)
    u_t, delta_t, b_t, c_t = (x[:, 0].float() for x in (u, delta, b, c))
    skip = None if skip is None else skip.float()
    y, h = torch.ops.exgate.ssm_step(u_t, delta_t, a.float(), b_t, c_t, skip, h)
    return y[:, None].to(u.dtype), type(state)(h)


@torch.library.custom_op("exgate::ssm_step", mutates_args=(), device_types="cpu")
def _step(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor]:
    """u, delta (B, D), a (D, N), b, c (B, N), skip (D,), h (B, D, N) -> y (B, D) and the next h."""
    u, delta, a, b, c, skip, h = native.contiguous(u, delta, a, b, c, skip, h)
    out = torch.empty_like(u), torch.empty_like(h)
    program.run(lower(out, u, delta, a, b, c, skip, h))
    return out


def lower(out: tuple[Tensor, Tensor], u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip, h: Tensor):
    """The instruction of a step whose operands lie without gaps."""
    return program.instruction(program.Kind.SSM, (*out, u, delta, a, b, c, skip, h), h.shape)


@_step.register_fake
def _(u, delta, a, b, c, skip, h):
    return u.new_empty(u.shape), h.new_empty(h.shape)
