"""The product for a few rows, at the speed at which the weights come from memory: linear.h."""

import torch
from torch import Tensor

from exgate.ops import native, program


def refuses(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> str | None:
    if x.numel() > program.MOST_ROWS * x.shape[-1]:
        return f"x has more than {program.MOST_ROWS} rows, for which a matrix product is faster"
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, scale, bias)):
        return "it has no gradients"
    if weight.dtype not in program.TYPES:
        return f"weight has type {weight.dtype}"
    return native.refuses(x, weight, scale, bias)


def run(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    scale, bias = (None if tensor is None else tensor.float() for tensor in (scale, bias))
    return torch.ops.exgate.linear_cpu(x.float(), weight, scale, bias).to(x.dtype)


@torch.library.custom_op("exgate::linear_cpu", mutates_args=(), device_types="cpu")
def _linear(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    x, weight, scale, bias = native.contiguous(x, weight, scale, bias)
    out = x.new_empty(*x.shape[:-1], len(weight))
    program.run(lower(out, x, weight, scale, bias))
    return out


def lower(out: Tensor, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> program.Instruction:
    """The instruction of a product whose operands lie without gaps."""
    return program.linear(out.view(1, -1, len(weight)), x.view(1, -1, x.shape[-1]), weight, scale, bias)


@_linear.register_fake
def _(x, weight, scale, bias):
    return x.new_empty(*x.shape[:-1], len(weight))
