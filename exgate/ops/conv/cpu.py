"""A single step of the convolution by the instruction of program.cpp; anything longer is left to `eager`."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.conv import eager


def refuses(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None) -> str | None:
    return native.refuses(x, weight, bias, *state)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None):
    if x.shape[1] > 1 or native.saves(x, weight, bias, *state):
        return eager.run(x, weight, bias, state, reset)
    window = state.x if reset is None else state.x.masked_fill(reset[..., None], 0.0)
    taps = weight.detach().float().T.contiguous()
    y, window = torch.ops.exgate.conv_step(x[:, 0].float(), taps, None if bias is None else bias.float(), window)
    return y[:, None].to(x.dtype), type(state)(window)


@torch.library.custom_op("exgate::conv_step", mutates_args=(), device_types="cpu")
def _step(x: Tensor, taps: Tensor, bias: Tensor | None, window: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, D), taps (kernel, D), window (B, kernel - 1, D) -> y (B, D) and the next window."""
    x, taps, bias, window = native.contiguous(x, taps, bias, window)
    out = torch.empty_like(x), torch.empty_like(window)
    program.run(lower(out, x, taps, bias, window))
    return out


def lower(out: tuple[Tensor, Tensor], x: Tensor, taps: Tensor, bias: Tensor | None, window: Tensor):
    """The instruction of a step whose operands lie without gaps."""
    return program.instruction(program.Kind.CONV, (*out, x, taps, bias, window), (len(x), *taps.shape))


@_step.register_fake
def _(x, taps, bias, window):
    return torch.empty_like(x), torch.empty_like(window)
