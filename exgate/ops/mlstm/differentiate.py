"""What the compiled backends of mLSTM share of their autograd: what is saved, and whose gradients come back."""

from typing import Any

import torch
from torch import Tensor

from exgate.ops.autograd import expect, received


def gradient_tensors(*inputs: Tensor | None) -> list[Tensor]:
    """As many as there are inputs, which are None at the end where no state came in."""
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs if x is not None]


def register(forward: Any, backward: Any) -> None:
    """Make the custom op `backward` the derivative of `forward`.

    `forward` takes q, k, v, i, f, c, n, m, reset and options, whose last is whether it saves, and returns h, c, n, m
    and what it keeps. `backward` takes the gradients of h, c and n, the inputs, h, what was kept, and the options.
    """

    def save(ctx, inputs, output) -> None:
        q, k, v, i, f, c, n, m, reset, *ctx.options, _ = inputs
        h, _, _, _, *kept = output
        expect(ctx, h)
        ctx.save_for_backward(q, k, v, i, f, c, n, m, reset, h, *kept)

    def gradients(ctx, *given: Tensor | None):
        (dh,), (dc, dn) = received(ctx, given[0]), given[1:3]
        saved = ctx.saved_tensors  # once: recomputation unpacks them anew each time
        if dc is None and dn is not None:
            dc = dn.new_zeros(*dn.shape, saved[2].shape[-1])
        if dn is None and dc is not None:
            dn = dc.new_zeros(dc.shape[:3])
        found = backward(dh, dc, dn, *saved, *ctx.options)
        return *found, *(None,) * (len(ctx.needs_input_grad) - len(found))

    forward.register_autograd(gradients, setup_context=save)
    backward.register_fake(lambda dh, dc, dn, q, k, v, i, f, c, n, *rest: gradient_tensors(q, k, v, i, f, c, n))
