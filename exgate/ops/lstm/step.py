"""A single step of LSTM without gradients, by the instruction of program.cpp."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.lstm import reference


def run(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None):
    if native.saves(x, r, *state, peephole):  # the kernel over time packs the weights, which costs more than a step
        return reference.run(x, r, state, peephole, reset)
    if reset is not None:
        state = (s.masked_fill(reset[..., None], 0.0) for s in state)
    peephole = None if peephole is None else peephole.float()
    h, c = torch.ops.exgate.lstm_step(x[:, 0].float(), r if r.dtype == torch.bfloat16 else r.float(), *state, peephole)
    return h[:, None].clone().to(x.dtype), (h, c)  # what the caller does to the output is not done to the state


@torch.library.custom_op("exgate::lstm_step", mutates_args=(), device_types="cpu")
def _step(x: Tensor, r: Tensor, h: Tensor, c: Tensor, peephole: Tensor | None) -> tuple[Tensor, Tensor]:
    """x (B, 4, H, K) and the state -> the next state, whose h is the output."""
    x, r, h, c, peephole = native.contiguous(x, r, h, c, peephole)
    out = torch.empty_like(h), torch.empty_like(c)
    program.run(lower(out, x, r, h, c, peephole))
    return out


def lower(out, x: Tensor, r: Tensor, h: Tensor, c: Tensor, peephole: Tensor | None) -> program.Instruction:
    """The instruction of a step whose operands lie without gaps."""
    return program.instruction(program.Kind.LSTM, (*out, x, r, h, c, peephole), (*h.shape, program.TYPES[r.dtype]))


@_step.register_fake
def _(x, r, h, c, peephole):
    return tuple(torch.empty_like(s, memory_format=torch.contiguous_format) for s in (h, c))
