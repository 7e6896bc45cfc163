"""A single step of sLSTM without gradients, by the instruction of program.cpp."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.slstm import reference


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    if native.saves(x, r, *state):  # the kernel over time packs the weights, which costs more than a step
        return reference.run(x, r, state, forget_gate, reset)
    if reset is not None:
        empty = (0.0, 0.0, 0.0, -torch.inf)
        state = (s.masked_fill(reset[..., None], value) for s, value in zip(state, empty, strict=True))
    h, *rest = torch.ops.exgate.slstm_step(
        x[:, 0].float(), r if r.dtype == torch.bfloat16 else r.float(), *state, forget_gate == "exp"
    )
    return h[:, None].clone().to(x.dtype), (h, *rest)  # what the caller does to the output is not done to the state


@torch.library.custom_op("exgate::slstm_step", mutates_args=(), device_types="cpu")
def _step(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, exp_f: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, 4, H, K) and the state -> the next state, whose h is the output."""
    x, r, h, c, n, m = native.contiguous(x, r, h, c, n, m)
    out = torch.empty_like(h), torch.empty_like(c), torch.empty_like(n), torch.empty_like(m)
    program.run(lower(out, x, r, h, c, n, m, exp_f))
    return out


def lower(out, x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, exp_f: bool) -> program.Instruction:
    """The instruction of a step whose operands lie without gaps."""
    return program.instruction(program.Kind.SLSTM, (*out, x, r, h, c, n, m), (*h.shape, program.TYPES[r.dtype], exp_f))


@_step.register_fake
def _(x, r, h, c, n, m, exp_f):
    return tuple(torch.empty_like(s, memory_format=torch.contiguous_format) for s in (h, c, n, m))
