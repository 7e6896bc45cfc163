"""Causal depthwise convolution on a GPU, SiLU included: one kernel each way (`triton_kernels`), sums in float32."""

import torch
from torch import Tensor

from exgate.ops import gpu
from exgate.ops.autograd import expect, once, received

LONGEST = 8  # taps: backward holds twice as many tiles in registers


def refuses(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation) -> str | None:
    if weight.shape[1] > LONGEST:
        return f"kernel={weight.shape[1]} taps are more than {LONGEST}"
    return gpu.refuses(x, weight, bias, *state, reset)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation: str | None):
    y, last = torch.ops.exgate.conv_triton(x, weight, bias, state.x, reset, activation == "silu")
    return y, type(state)(last)


def tile(dim: int, taps: int) -> tuple[int, int]:
    """Steps and channels of a tile: 8 or 4 numbers per thread, of each of the many tiles that backward holds."""
    columns = min(128, gpu.power_of_two(dim))
    return (1024 if taps <= 4 else 512) // columns, columns


def share(batch: int, tiles: int, strips: int, processors: int) -> int:
    """Tiles that one program of backward takes: as many as leave eight programs for each processor, 16 at most."""
    return max(1, min(16, batch * tiles * strips // (8 * processors)))


def _layout(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, reset: Tensor | None):
    """Operands as the kernels take them, with something to point at in the place of what is missing."""
    x = x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()
    weight, window = weight.contiguous(), window.contiguous()
    marks = weight if reset is None else reset.contiguous().view(torch.uint8)
    return x, weight, weight if bias is None else bias.contiguous(), window, marks


@torch.library.custom_op("exgate::conv_triton", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, reset: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """y and the inputs before the next step."""
    from exgate.ops.conv import triton_kernels

    (batch, steps, dim), taps = x.shape, weight.shape[1]
    y, last = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, window))
    rows, columns = tile(dim, taps)
    tiles = -(-steps // rows)
    inputs = x, *_ = _layout(x, weight, bias, window, reset)
    gpu.launch(
        triton_kernels.forward, (batch * tiles, -(-dim // columns)), *inputs, y, last, steps, tiles, *x.stride()[:2],
        D=dim, J=taps, SILU=silu, BIASED=bias is not None, RESETS=reset is not None, ROWS=rows, COLUMNS=columns,
        KEPT=gpu.power_of_two(taps - 1, 1),
    )  # fmt: skip
    return y, last


@once
@torch.library.custom_op("exgate::conv_triton_backward", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor, reset: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from exgate.ops.conv import triton_kernels

    (batch, steps, dim), taps = x.shape, weight.shape[1]
    dx, dwindow = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, window))
    rows, columns = tile(dim, taps)
    strips, tiles = -(-dim // columns), -(-(steps + taps - 1) // rows)
    each = share(batch, tiles, strips, gpu.target(x.device).processors)
    programs = -(-tiles // each)
    dweight = window.new_empty(batch * programs, taps, dim)
    dbias = window.new_empty(batch * programs, dim)
    inputs = x, *_ = _layout(x, weight, bias, window, reset)
    gpu.launch(
        triton_kernels.backward, (batch * programs, strips), dy.contiguous(), dlast.contiguous(), *inputs,
        dx, dweight, dbias, dwindow, steps, programs, each, *x.stride()[:2],
        D=dim, J=taps, SILU=silu, BIASED=bias is not None, RESETS=reset is not None, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    # The kernel's taps are newest first.
    return dx, dweight.sum(0).flip(0).T.contiguous().to(weight.dtype), dbias.sum(0), dwindow


@_forward.register_fake
def _(x, weight, bias, window, reset, silu):
    return tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, window))


@_backward.register_fake
def _(dy, dlast, x, weight, bias, window, reset, silu):
    dx, dweight, dwindow = (
        torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, weight, window)
    )
    return dx, dweight, window.new_empty(x.shape[2]), dwindow


def _save(ctx, inputs, output):
    *tensors, ctx.silu = inputs
    expect(ctx, *output)
    ctx.save_for_backward(*tensors)


def _gradients(ctx, dy, dlast):
    _, _, bias, *_ = saved = ctx.saved_tensors
    dx, dweight, dbias, dwindow = torch.ops.exgate.conv_triton_backward(*received(ctx, dy, dlast), *saved, ctx.silu)
    return dx, dweight, None if bias is None else dbias.to(bias.dtype), dwindow, None, None


_forward.register_autograd(_gradients, setup_context=_save)
