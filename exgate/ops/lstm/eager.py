"""LSTM in plain PyTorch: a time loop with backpropagation through time written by hand.

Forward keeps h and c of every step. Backward goes through blocks of time from the last to the first: it computes a
block's gates again in one product and a few elementwise passes, so that the loop itself is left with one product and a
few elementwise operations per step; the weight gradient is one product per block. With p the peepholes:

    d raw_o = dh tanh(c) o (1-o)          dc += dh o (1 - tanh(c)^2) + p_o d raw_o
    d raw_i = dc z i (1-i)                d raw_f = dc c_prev f (1-f)          d raw_z = dc i (1 - z^2)
    dc_prev = dc f + p_i d raw_i + p_f d raw_f                                 dh_prev = R^T d raw
"""

import torch
from torch import Tensor

from exgate.ops.autograd import expect, once, received
from exgate.ops.dispatch import state_type
from exgate.ops.layout import batch_first, heads_first, mixing, own, time_blocks, unmixing
from exgate.ops.lstm import reference


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None):
    if x.shape[1] == 1:  # a step needs no loop: plain operations, which export
        return reference.run(x, r, state, peephole, reset)
    kind = state_type(x)
    peephole = None if peephole is None else peephole.to(kind)
    h, *last = torch.ops.exgate.lstm_eager(x, r.to(kind), *state, peephole, reset, torch.is_grad_enabled())
    return h, type(state)(*last[:2])


@torch.library.custom_op("exgate::lstm_eager", mutates_args=())
def _forward(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, peephole: Tensor | None, reset: Tensor | None, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, the last state, and for backward h and c (H, T+1, B, K): index t is before step t."""
    batch, steps, _, heads, size = x.shape
    kept = steps + 1 if saves else 2
    hs, cs = h.new_empty(heads, steps + 1, batch, size), h.new_empty(heads, kept, batch, size)
    hs[:, 0], cs[:, 0] = h.transpose(0, 1), c.transpose(0, 1)
    weights = mixing(r)
    begins = None if reset is None else reset.T[:, None, :, None].unbind(0)  # (1, B, 1) each
    h_at, c_at = hs.unbind(1), cs.unbind(1)
    (h_in,), step = own(h), h.new_empty(heads, batch, 4 * size)  # products want their operands contiguous
    gates = step.view(heads, batch, 4, size)
    i, f, z, o = gates.unbind(2)
    peep = _over_batch(peephole)
    for start, stop in time_blocks(steps, 4 * heads * batch * size):
        raw = heads_first(x[:, start:stop], h.dtype).view(heads, stop - start, batch, 4 * size)
        for t, raw_t in enumerate(raw.unbind(1), start):
            before, after = (t, t + 1) if saves else (t % 2, (t + 1) % 2)
            c_in = c_at[before]
            if begins is not None:
                h_in.masked_fill_(begins[t], 0.0)
                c_in = c_in.masked_fill(begins[t], 0.0)
            torch.baddbmm(raw_t, h_in, weights, out=step)
            if peep is not None:
                i.addcmul_(peep[0], c_in)
                f.addcmul_(peep[1], c_in)
            gates[:, :, :2].sigmoid_()
            torch.mul(f, c_in, out=c_at[after]).addcmul_(i, z.tanh_())
            if peep is not None:
                o.addcmul_(peep[2], c_at[after])
            torch.tanh(c_at[after], out=h_in).mul_(o.sigmoid_())
            h_at[t + 1].copy_(h_in)
    y = x.new_empty(batch, steps, heads, size).copy_(batch_first(hs[:, 1:]))
    h, c = own(h_at[steps], c_at[steps if saves else steps % 2])
    saved = (hs, cs) if saves else (h.new_empty(0), h.new_empty(0))
    return y, h, c, *saved


def _over_batch(peephole: Tensor | None) -> tuple[Tensor, ...] | None:
    """(3, H, K) -> three of (H, 1, K)."""
    return None if peephole is None else peephole[:, :, None].unbind(0)


@once
@torch.library.custom_op("exgate::lstm_eager_backward", mutates_args=())
def _backward(
    dy: Tensor, dh: Tensor, dc: Tensor,
    x: Tensor, r: Tensor, hs: Tensor, cs: Tensor, peephole: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, steps, _, heads, size = x.shape
    weights, peep = mixing(r), _over_batch(peephole)
    weights_back = weights.transpose(1, 2).contiguous()
    dweights, dx = torch.zeros_like(weights), torch.empty_like(x, memory_format=torch.contiguous_format)
    dpeephole = dweights.new_zeros(3, heads, size)
    carry, dc = own(dh, dc)  # heads first, and ours to change
    step = hs.new_empty(heads, batch, 4 * size)  # products want their operands contiguous
    dgates = step.view(heads, batch, 4, size)
    (d_i, d_f, _, d_o), d_ifz = dgates.unbind(2), dgates[:, :, :3]
    dc_wide = dc[:, :, None]
    begins = None if reset is None else reset.T[None, ..., None]  # (1, T, B, 1)
    for start, stop in reversed(list(time_blocks(steps, 4 * heads * batch * size))):
        cut = None if begins is None else begins[:, start:stop]
        h_in, c_in, c_out = hs[:, start:stop], cs[:, start:stop], cs[:, start + 1 : stop + 1]
        if cut is not None:
            h_in, c_in = h_in.masked_fill(cut, 0.0), c_in.masked_fill(cut, 0.0)
        h_in = h_in.reshape(heads, -1, size)
        raw = heads_first(x[:, start:stop], hs.dtype).view(heads, -1, 4 * size).baddbmm_(h_in, weights)
        raw = raw.view(heads, stop - start, batch, 4, size)
        f, to_c, to_o, from_c = _factors(raw, c_in, c_out, peep)
        draw = raw  # the gates are in the factors now: its memory takes the gradient
        parts = (dy[:, start:stop].permute(2, 1, 0, 3), f, to_c, to_o, from_c, draw)
        by_step = zip(*(part.unbind(1) for part in parts), strict=True)
        for s, (dy_s, f_s, to_c_s, to_o_s, from_c_s, draw_s) in reversed(list(enumerate(by_step))):
            carry.add_(dy_s)
            torch.mul(carry, to_o_s, out=d_o)
            dc.addcmul_(carry, to_c_s)
            if peep is not None:
                dc.addcmul_(peep[2], d_o)
            torch.mul(dc_wide, from_c_s, out=d_ifz)
            dc.mul_(f_s)
            if peep is not None:
                dc.addcmul_(peep[0], d_i).addcmul_(peep[1], d_f)
            draw_s.copy_(dgates)
            torch.bmm(step, weights_back, out=carry)
            if cut is not None:
                carry.masked_fill_(cut[:, s], 0.0)
                dc.masked_fill_(cut[:, s], 0.0)
        dweights.baddbmm_(h_in.transpose(1, 2), draw.view(heads, -1, 4 * size))
        dx[:, start:stop] = draw.permute(2, 1, 3, 0, 4)
        if peep is not None:
            for gate, (slot, c_seen) in enumerate(((0, c_in), (1, c_in), (3, c_out))):
                dpeephole[gate] += (draw[:, :, :, slot] * c_seen).sum((1, 2))
    dh, dc = own(carry, dc)
    return dx, unmixing(dweights), dh, dc, dpeephole


def _factors(raw: Tensor, c_in: Tensor, c_out: Tensor, peep: tuple[Tensor, ...] | None):
    """What the gradients of a block's steps are multiplied by, all steps at once.

    Returns f, dh -> dc, dh -> d raw_o (H, S, B, K) each; dc -> d raw_i, d raw_f, d raw_z (H, S, B, 3, K).
    """
    raw_i, raw_f, raw_z, raw_o = raw.unbind(3)
    if peep is not None:
        p_i, p_f, p_o = (p[:, None] for p in peep)
        raw_i, raw_f, raw_o = raw_i + p_i * c_in, raw_f + p_f * c_in, raw_o + p_o * c_out
    i, f, z, o, tanh_c = raw_i.sigmoid(), raw_f.sigmoid(), raw_z.tanh(), raw_o.sigmoid(), c_out.tanh()
    to_c, to_o = o * (1 - tanh_c * tanh_c), tanh_c * o * (1 - o)
    from_c = torch.stack([z * i * (1 - i), c_in * f * (1 - f), i * (1 - z * z)], 3)
    return f, to_c, to_o, from_c


@_forward.register_fake
def _(x, r, h, c, peephole, reset, saves):
    batch, steps, _, heads, size = x.shape
    last = [torch.empty_like(h, memory_format=torch.contiguous_format) for _ in range(2)]
    kept = (heads, steps + 1, batch, size) if saves else (0,)
    return x.new_empty(batch, steps, heads, size), *last, h.new_empty(kept), h.new_empty(kept)


@_backward.register_fake
def _(dy, dh, dc, x, r, hs, cs, peephole, reset):
    states = [torch.empty_like(dh, memory_format=torch.contiguous_format) for _ in range(2)]
    dpeephole = r.new_empty(3, *r.shape[1:3])
    return torch.empty_like(x, memory_format=torch.contiguous_format), r.new_empty(r.shape), *states, dpeephole


def _save(ctx, inputs, output):
    x, r, _, _, peephole, reset, _ = inputs
    expect(ctx, *output[:3])
    ctx.save_for_backward(x, r, *output[3:], peephole, reset)


def _gradients(ctx, *gradients):
    saved = ctx.saved_tensors
    dx, dr, dh, dc, dpeephole = torch.ops.exgate.lstm_eager_backward(*received(ctx, *gradients), *saved)
    return dx, dr, dh, dc, None if saved[4] is None else dpeephole, None, None


_forward.register_autograd(_gradients, setup_context=_save)
