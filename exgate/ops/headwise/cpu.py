"""The product with small blocks on the vectors of the CPU: cpu.cpp as custom ops, in float32."""

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.autograd import once

SIZES = (2, 4)  # of blocks
ROWS = 256  # of a unit of work, whose gradients of the weights are one sum


def refuses(x: Tensor, weight: Tensor) -> str | None:
    if weight.shape[-1] not in SIZES:
        return f"its blocks are of 2 or 4, and weight has {weight.shape[-1]}"
    if x.dim() < 2 or x.shape[-2] == 1:
        return "x is a single step"  # plain operations, which export and are recorded
    if {x.dtype, weight.dtype} != {torch.float32} or torch.is_autocast_enabled("cpu"):
        return "it takes float32 alone"
    return native.refuses(x, weight)


def run(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.exgate.headwise_cpu(x, weight)


def _places(size: int) -> tuple[Tensor, Tensor]:
    """Where number k of output o is in a block, (S, S): the weight of input (o + k) % S."""
    outs = torch.arange(size)
    return outs.expand(size, size), (outs + outs[:, None]) % size


def _turns(weight: Tensor) -> Tensor:
    """(N, S, S) -> (S, N S), as cpu.cpp reads them: for each k, the weights of all outputs."""
    return weight[:, *_places(weight.shape[-1])].transpose(0, 1).flatten(1)


def _rows(x: Tensor) -> Tensor:
    """(..., D) as (rows, D), the numbers of a row side by side, without a copy where that is so."""
    x = x.flatten(0, -2)
    return x if x.stride(1) == 1 else x.contiguous()


@torch.library.custom_op("exgate::headwise_cpu", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor) -> Tensor:
    y, rows = x.new_empty(x.shape), _rows(x)
    sizes = (*rows.shape, weight.shape[-1], rows.stride(0), ROWS, native.threads())
    native.call("exgate_headwise_forward", rows, _turns(weight), y, *sizes)
    return y


@once
@torch.library.custom_op("exgate::headwise_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dy, rows, dx = dy.contiguous(), _rows(x), x.new_empty(x.shape)
    blocks, size, _ = weight.shape
    dturns = x.new_zeros(-(-len(rows) // ROWS), size, blocks * size)
    sizes = (*rows.shape, size, rows.stride(0), ROWS, native.threads())
    native.call("exgate_headwise_backward", dy, rows, _turns(weight.transpose(1, 2)), dx, dturns, *sizes)
    dweight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    dweight[:, *_places(size)] = dturns.sum(0).unflatten(1, (blocks, size)).transpose(0, 1)
    return dx, dweight


@_forward.register_fake
def _(x, weight):
    return x.new_empty(x.shape)


@_backward.register_fake
def _(dy, x, weight):
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dy):
    return torch.ops.exgate.headwise_cpu_backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_gradients, setup_context=_save)
