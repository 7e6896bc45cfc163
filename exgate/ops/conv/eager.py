"""Causal depthwise convolution in plain PyTorch: one channels-last convolution, and a few rows mended after resets.

A `reset` touches at most kernel-1 steps. Those rows are computed again from masked windows, so that nothing of an
earlier document reaches them, not even a NaN, and all the others take the fast path.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from exgate.ops.autograd import once
from exgate.ops.conv import reference
from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation: str | None):
    if x.shape[1] == 1:
        return reference.run(x, weight, bias, state, reset, activation)
    kind, state_kind = x.dtype, state_type(x)
    window = torch.cat([state.x, x.to(state_kind)], 1)
    weight = weight.to(state_kind)
    y = torch.ops.exgate.conv_eager(window, weight, reset)
    y = y if bias is None else y + bias.to(state_kind)
    return reference.activated(y.to(kind), activation), type(state)(last(window, reset, weight.shape[1] - 1))


def last(window: Tensor, reset: Tensor | None, kept: int) -> Tensor:
    """The last `kept` inputs of a window, zero where they are of another document than the last one's."""
    tail = window[:, window.shape[1] - kept :]
    if reset is None:
        return tail.clone()
    document = _documents(reset, kept)
    return tail.masked_fill((document[:, document.shape[1] - kept :] != document[:, -1:])[..., None], 0.0)


def _documents(reset: Tensor, kept: int) -> Tensor:
    """The number of each step's document, (B, kept + T): the state belongs to document 0."""
    return pad(torch.cumsum(reset, 1), (kept, 0))


def _convolve(window: Tensor, weight: Tensor) -> Tensor:
    """(B, T + kernel - 1, D), (D, kernel) -> (B, T, D). A picture of height 1, channels last: no copy."""
    picture = window[:, None].permute(0, 3, 1, 2)
    return conv2d(picture, weight[:, None, None], groups=weight.shape[0])[:, :, 0].transpose(1, 2)


def _mended(reset: Tensor, kernel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The steps whose window crosses a reset: their (row, t), the steps in their windows, and which of them count."""
    document = _documents(reset, kernel - 1)
    windows = document.unfold(1, kernel, 1)  # (B, T, kernel)
    counts = windows == windows[..., -1:]
    row, t = (~counts).any(-1).nonzero(as_tuple=True)
    taps = t[:, None] + torch.arange(kernel, device=t.device)
    return row, t, taps, counts[row, t]


@torch.library.custom_op("exgate::conv_eager", mutates_args=())
def _forward(window: Tensor, weight: Tensor, reset: Tensor | None) -> Tensor:
    y = _convolve(window, weight).contiguous()
    if reset is None:
        return y
    row, t, taps, counts = _mended(reset, weight.shape[1])
    inputs = window[row[:, None], taps].masked_fill(~counts[..., None], 0.0)
    y[row, t] = torch.einsum("rkd,dk->rd", inputs, weight)
    return y


@once
@torch.library.custom_op("exgate::conv_eager_backward", mutates_args=())
def _backward(dy: Tensor, window: Tensor, weight: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    kernel, steps = weight.shape[1], dy.shape[1]
    padded = dy.new_zeros(dy.shape[0], steps + 2 * (kernel - 1), dy.shape[2])
    inner = padded[:, kernel - 1 : kernel - 1 + steps]
    inner.copy_(dy)
    steps_to_mend = None if reset is None else _mended(reset, kernel)
    if steps_to_mend is not None:
        row, t, taps, counts = steps_to_mend
        inner[row, t] = 0.0
    dwindow = _convolve(padded, weight.flip(1)).contiguous()
    dweight, product = torch.empty_like(weight), torch.empty_like(dy)
    for j in range(kernel):
        torch.mul(inner, window[:, j : j + steps], out=product)
        if steps_to_mend is not None:
            row, t, taps, counts = steps_to_mend
            product[row, t] = 0.0  # a foreign NaN or inf there must not reach the sum through 0 * inf
        dweight[:, j] = product.sum((0, 1))
    if steps_to_mend is not None:
        row, t, taps, counts = steps_to_mend
        mended = dy[row, t]
        dinputs = (mended[:, None] * weight.T).masked_fill(~counts[..., None], 0.0)
        dwindow.index_put_((row[:, None].expand_as(taps), taps), dinputs, accumulate=True)
        inputs = window[row[:, None], taps].masked_fill(~counts[..., None], 0.0)
        dweight += torch.einsum("rkd,rd->dk", inputs, mended)
    return dwindow, dweight


@_forward.register_fake
def _(window, weight, reset):
    return window.new_empty(window.shape[0], window.shape[1] - weight.shape[1] + 1, window.shape[2])


@_backward.register_fake
def _(dy, window, weight, reset):
    return torch.empty_like(window), torch.empty_like(weight)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dy):
    dwindow, dweight = torch.ops.exgate.conv_eager_backward(dy.contiguous(), *ctx.saved_tensors)
    return dwindow, dweight, None


_forward.register_autograd(_gradients, setup_context=_save)
