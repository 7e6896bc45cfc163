"""A product with weights that are stored in few bits."""

import torch
from torch import Tensor

from exgate.ops.dispatch import check_shape, choose, full_precision
from exgate.ops.linear import cpu, eager

BACKENDS = {"cpu": cpu, "eager": eager}


def linear(
    x: Tensor, weight: Tensor, scale: Tensor | None = None, bias: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    r"""$y_o = s_o \sum_i W_{oi}\, x_i + b_o$ with W in bfloat16 or int8, and the arithmetic in the type of x.

    Args:
        x: (..., I).
        weight: (O, I), any float type, or int8 with a scale.
        scale: (O,) or None: what a weight of 1 stands for in each row.
        bias: (O,) or None.
        backend: 'cpu' (up to 8 rows of x, without gradients) or 'eager'; None takes the first that can.
    Returns:
        (..., O) in x's type.
    Raises:
        ValueError: shapes disagree, int8 comes without a scale, or there is no such backend.
    Where the weights are whole numbers, 'cpu' rounds each row of x to 15 bits of its largest number (3e-5 of it), which
    changes less than the weights' own rounding to 8 bits does.
    Cost: a few rows of x take the time in which the weights are read from memory.
    """
    sizes = {"I": x.shape[-1], "O": len(weight)}
    check_shape("linear", "weight", weight, "O I", sizes, "x")
    for name, tensor in (("scale", scale), ("bias", bias)):
        if tensor is not None:
            check_shape("linear", name, tensor, "O", sizes, "weight")
    if not weight.is_floating_point() and (weight.dtype != torch.int8 or scale is None):
        raise ValueError(f"linear: weight has type {weight.dtype}; it should be a float type, or int8 with a scale.")
    with full_precision(x):
        return choose("linear", BACKENDS, backend, x, weight, scale, bias).run(x, weight, scale, bias)
