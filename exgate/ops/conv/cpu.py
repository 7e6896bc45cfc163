"""Causal depthwise convolution on the vectors of the CPU: cpu.cpp as custom ops, a step by program.cpp, in float32."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.autograd import once
from exgate.ops.conv import eager, reference


def refuses(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation) -> str | None:
    return native.refuses(x, weight, bias, *state)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation: str | None):
    kind, kept = x.dtype, weight.shape[1] - 1
    x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    if x.shape[1] > 1:
        y = torch.ops.exgate.conv_cpu(x, weight, bias, state.x, reset)
        tail = x if x.shape[1] >= kept else torch.cat([state.x, x], 1)
        return reference.activated(y.to(kind), activation), type(state)(eager.last(tail, reset, kept))
    if native.saves(x, weight, bias, *state):
        y, state = eager.run(x, weight, bias, state, reset, None)
        return reference.activated(y.to(kind), activation), state
    window = state.x if reset is None else state.x.masked_fill(reset[..., None], 0.0)
    y, window = torch.ops.exgate.conv_step(x[:, 0], weight.detach().T.contiguous(), bias, window)
    return reference.activated(y[:, None].to(kind), activation), type(state)(window)


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


@torch.library.custom_op("exgate::conv_cpu", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, reset: Tensor | None) -> Tensor:
    x, bias, window, reset = native.contiguous(x, bias, window, reset)
    y, taps = torch.empty_like(x), weight.T.contiguous()
    sizes = (*x.shape, len(taps), native.threads())
    native.call("exgate_conv_forward", x, taps, bias, window, reset, y, *sizes)
    return y


@once
@torch.library.custom_op("exgate::conv_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, window: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dy, x, window, reset = native.contiguous(dy, x, window, reset)
    (batch, steps, dim), taps = x.shape, weight.T.contiguous()
    dx, dwindow = torch.empty_like(x), torch.empty_like(window)
    dtaps, dbias = x.new_empty(batch, *taps.shape), x.new_empty(batch, dim)
    sizes = (batch, steps, dim, len(taps), native.threads())
    native.call("exgate_conv_backward", dy, x, taps, window, reset, dx, dwindow, dtaps, dbias, *sizes)
    return dx, dtaps.sum(0).T.contiguous(), dbias.sum(0), dwindow


@_forward.register_fake
def _(x, weight, bias, window, reset):
    return x.new_empty(x.shape)


@_backward.register_fake
def _(dy, x, weight, window, reset):
    return *(x.new_empty(part.shape) for part in (x, weight)), x.new_empty(x.shape[2]), x.new_empty(window.shape)


def _save(ctx, inputs, output):
    x, weight, bias, window, reset = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(x, weight, window, reset)


def _gradients(ctx, dy):
    dx, dweight, dbias, dwindow = torch.ops.exgate.conv_cpu_backward(dy, *ctx.saved_tensors)
    return dx, dweight, dbias if ctx.biased else None, dwindow, None


_forward.register_autograd(_gradients, setup_context=_save)
