"""The vanilla recurrent network in plain PyTorch: a time loop with backpropagation through time written by hand.

h of every step, heads first, is all that backward needs: d raw = dh (1 - h^2), dh_prev = R^T d raw, and the gradient
of R is one product at the end.
"""

import torch
from torch import Tensor

from exgate.ops.autograd import expect, once, received
from exgate.ops.dispatch import state_type
from exgate.ops.layout import batch_first, own
from exgate.ops.rnn import reference


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, r: Tensor, state, reset: Tensor | None):
    if x.shape[1] == 1:  # a step needs no loop: plain operations, which export
        return reference.run(x, r, state, reset)
    h, last, _ = torch.ops.exgate.rnn_eager(x, r.to(state_type(x)), state.h, reset, torch.is_grad_enabled())
    return h, type(state)(last)


@torch.library.custom_op("exgate::rnn_eager", mutates_args=())
def _forward(x: Tensor, r: Tensor, h: Tensor, reset: Tensor | None, saves: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, the last state, and for backward h (H, T+1, B, K): index t is before step t."""
    batch, steps, heads, size = x.shape
    hs = h.new_empty(heads, steps + 1, batch, size)
    hs[:, 0], hs[:, 1:] = h.transpose(0, 1), x.permute(2, 1, 0, 3)
    weights = r.transpose(1, 2).contiguous()
    begins = None if reset is None else reset.T[:, None, :, None].unbind(0)  # (1, B, 1) each
    before, after = *own(h), h.new_empty(heads, batch, size)  # products want their operands contiguous
    for t, h_t in enumerate(hs[:, 1:].unbind(1)):
        if begins is not None:
            before.masked_fill_(begins[t], 0.0)
        torch.baddbmm(h_t, before, weights, out=after)
        h_t.copy_(after.tanh_())
        before, after = after, before
    y = x.new_empty(x.shape).copy_(batch_first(hs[:, 1:]))
    (last,) = own(before)
    return y, last, hs if saves else h.new_empty(0)


@once
@torch.library.custom_op("exgate::rnn_eager_backward", mutates_args=())
def _backward(dy: Tensor, dh: Tensor, r: Tensor, hs: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    heads, more, _, size = hs.shape
    back = r.contiguous()
    (carry,) = own(dh)
    step = torch.empty_like(carry)
    draws = 1 - hs[:, 1:].square()
    begins = None if reset is None else reset.T[None, ..., None]  # (1, T, B, 1)
    for t in reversed(range(more - 1)):
        carry.add_(dy[:, t].transpose(0, 1))
        torch.mul(carry, draws[:, t], out=step)
        draws[:, t] = step
        torch.bmm(step, back, out=carry)
        if begins is not None:
            carry.masked_fill_(begins[:, t], 0.0)
    h_in = hs[:, :-1] if begins is None else hs[:, :-1].masked_fill(begins, 0.0)
    dr = torch.bmm(draws.reshape(heads, -1, size).transpose(1, 2), h_in.reshape(heads, -1, size))
    (dh,) = own(carry)
    return batch_first(draws).contiguous(), dr, dh


@_forward.register_fake
def _(x, r, h, reset, saves):
    batch, steps, heads, size = x.shape
    return x.new_empty(x.shape), h.new_empty(h.shape), h.new_empty((heads, steps + 1, batch, size) if saves else (0,))


@_backward.register_fake
def _(dy, dh, r, hs, reset):
    return hs.new_empty(dy.shape), r.new_empty(r.shape), dh.new_empty(dh.shape)


def _save(ctx, inputs, output):
    x, r, _, reset, _ = inputs
    expect(ctx, *output[:2])
    ctx.kind = x.dtype
    ctx.save_for_backward(r, output[2], reset)


def _gradients(ctx, *gradients):
    dx, dr, dh = torch.ops.exgate.rnn_eager_backward(*received(ctx, *gradients), *ctx.saved_tensors)
    return dx.to(ctx.kind), dr, dh, None, None


_forward.register_autograd(_gradients, setup_context=_save)
