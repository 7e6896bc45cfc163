"""Gradients of the outputs that nobody used: zeros for those that a formula needs, nothing for the others.

An op returns what it keeps for backward as outputs, which have no gradient ever. PyTorch would fill zeros of their size
before each backward, which takes as long as a part of it. And no kernel's gradient can be differentiated again.
"""

from typing import Any

import torch
from torch import Tensor


def once(backward: Any) -> Any:
    """The custom op of a backward pass, which says what to do when somebody differentiates it."""

    def gradients(ctx, *_):
        raise RuntimeError(
            f"{backward._qualname}: fast backends can be differentiated once. For second derivatives compute inside of "
            "`with exgate.use_backend('reference'):`, or by torch.func."
        )

    backward.register_autograd(gradients)
    return backward


def expect(ctx: Any, *outputs: Tensor) -> None:
    """To be called where tensors are saved: `outputs` are the first ones, whose gradients the formula takes."""
    ctx.set_materialize_grads(False)
    ctx.expected = [(output.shape, output.dtype, output.device) for output in outputs]


def received(ctx: Any, *gradients: Tensor | None) -> list[Tensor]:
    """The gradients of the expected outputs, zeros where there was none."""
    return [
        torch.zeros(shape, dtype=kind, device=device) if gradient is None else gradient
        for gradient, (shape, kind, device) in zip(gradients, ctx.expected, strict=False)
    ]
