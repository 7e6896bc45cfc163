"""sLSTM in plain PyTorch: a time loop with backpropagation through time written by hand.

Forward keeps h, c, n and m of every step. Backward goes through blocks of time from the last to the first: it computes
a block's gates again in one product and a few elementwise passes, so that the loop itself is left with one product and
six elementwise operations per step; the weight gradient is one product per block. With m a constant, and ' for the
gates divided by exp(m):

    dc += dh o / n            dn -= dh o c / n^2
    d raw_o = dh c/n o (1-o)              d raw_z = dc i' (1 - z^2)
    d raw_i = (dc z + dn) i'              d raw_f = (dc c_prev + dn n_prev) f' d log f / d raw_f
    dc_prev = dc f'           dn_prev = dn f'           dh_prev = R^T d raw
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exgate.ops.autograd import expect, once, received
from exgate.ops.dispatch import state_type
from exgate.ops.layout import batch_first, heads_first, mixing, own, time_blocks, unmixing
from exgate.ops.slstm import reference


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    if x.shape[1] == 1:  # a step needs no loop: plain operations, which export
        return reference.run(x, r, state, forget_gate, reset)
    saves = torch.is_grad_enabled()
    h, *last = torch.ops.exgate.slstm_eager(x, r.to(state_type(x)), *state, reset, forget_gate == "exp", saves)
    return h, type(state)(*last[:3], last[3].detach())


@torch.library.custom_op("exgate::slstm_eager", mutates_args=())
def _forward(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, reset: Tensor | None, exp_f: bool, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, the last state, and for backward h (H, T+1, B, K), c and n (2, H, ...), m: t is before step t."""
    batch, steps, _, heads, size = x.shape
    kept = steps + 1 if saves else 2
    hs, ms = (h.new_empty(heads, steps + 1, batch, size), h.new_empty(heads, kept, batch, size))
    cns = h.new_empty(2, heads, kept, batch, size)
    first = (tensor.transpose(0, 1) for tensor in (h, c, n, m))
    for buffer, tensor in zip((hs[:, 0], cns[0, :, 0], cns[1, :, 0], ms[:, 0]), first, strict=True):
        buffer.copy_(tensor)
    weights = mixing(r)
    begins = None if reset is None else reset.T[:, None, :, None].unbind(0)  # (1, B, 1) each
    h_at, cn_at, m_at = hs.unbind(1), cns.unbind(2), ms.unbind(1)
    (h_in,), log_f = own(h), h.new_empty(heads, batch, size)  # products want their operands contiguous
    step, gates = h.new_empty(heads, batch, 4 * size), h.new_empty(2, heads, batch, size)
    raw_i, raw_f, raw_z, o = step.view(heads, batch, 4, size).unbind(2)
    z_and_1 = torch.ones_like(gates)
    for start, stop in time_blocks(steps, 4 * heads * batch * size):
        raw = heads_first(x[:, start:stop], h.dtype).view(heads, stop - start, batch, 4 * size)
        for t, raw_t in enumerate(raw.unbind(1), start):
            before, after = (t, t + 1) if saves else (t % 2, (t + 1) % 2)
            cn_in, m_in = cn_at[before], m_at[before]
            if begins is not None:
                h_in.masked_fill_(begins[t], 0.0)
                cn_in, m_in = cn_in.masked_fill(begins[t], 0.0), m_in.masked_fill(begins[t], -torch.inf)
            torch.baddbmm(raw_t, h_in, weights, out=step)
            torch.add(raw_f if exp_f else logsigmoid(raw_f), m_in, out=log_f)
            torch.maximum(raw_i, log_f, out=m_at[after])
            torch.sub(raw_i, m_at[after], out=gates[0])
            torch.sub(log_f, m_at[after], out=gates[1])
            i, f = gates.exp_()
            torch.tanh(raw_z, out=z_and_1[0])
            torch.mul(f, cn_in, out=cn_at[after]).addcmul_(i, z_and_1)
            torch.mul(o.sigmoid_(), cn_at[after][0], out=h_in).div_(cn_at[after][1])
            h_at[t + 1].copy_(h_in)
    end = steps if saves else steps % 2
    y = x.new_empty(batch, steps, heads, size).copy_(batch_first(hs[:, 1:]))
    h, c, n, m = own(h_at[steps], *cn_at[end], m_at[end])
    saved = (hs, cns, ms) if saves else (h.new_empty(0), h.new_empty(0), h.new_empty(0))
    return y, h, c, n, m, *saved


@once
@torch.library.custom_op("exgate::slstm_eager_backward", mutates_args=())
def _backward(
    dy: Tensor, dh: Tensor, dc: Tensor, dn: Tensor,
    x: Tensor, r: Tensor, hs: Tensor, cns: Tensor, ms: Tensor, reset: Tensor | None, exp_f: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, steps, _, heads, size = x.shape
    weights = mixing(r)
    weights_back = weights.transpose(1, 2).contiguous()
    dweights, dx = torch.zeros_like(weights), torch.empty_like(x, memory_format=torch.contiguous_format)
    (carry,), dcn = own(dh), torch.stack(own(dc, dn))  # heads first, and ours to change
    step = hs.new_empty(heads, batch, 4 * size)  # products want their operands contiguous
    dgates = step.view(heads, batch, 4, size)
    d_ifz, d_if, d_o = dgates[:, :, :3], dgates[:, :, :2], dgates[:, :, 3]
    dc_wide, dn_wide = dcn[:, :, :, None].unbind(0)
    begins = None if reset is None else reset.T[None, ..., None]  # (1, T, B, 1)
    for start, stop in reversed(list(time_blocks(steps, 4 * heads * batch * size))):
        cut = None if begins is None else begins[:, start:stop]
        h_in, cn_in, m_in = hs[:, start:stop], cns[:, :, start:stop], ms[:, start:stop]
        if cut is not None:
            h_in, cn_in, m_in = (
                h_in.masked_fill(cut, 0.0),
                cn_in.masked_fill(cut, 0.0),
                m_in.masked_fill(cut, -torch.inf),
            )
        h_in = h_in.reshape(heads, -1, size)
        raw = heads_first(x[:, start:stop], hs.dtype).view(heads, -1, 4 * size).baddbmm_(h_in, weights)
        raw = raw.view(heads, stop - start, batch, 4, size)
        f, to_cn, to_o, from_c, from_n = _factors(
            raw, cn_in, cns[:, :, start + 1 : stop + 1], m_in, ms[:, start + 1 : stop + 1], exp_f
        )
        draw = raw  # the gates are in the factors now: its memory takes the gradient
        parts = (dy[:, start:stop].permute(2, 1, 0, 3), f, to_o, from_c, from_n, draw)
        by_step = zip(to_cn.unbind(2), *(part.unbind(1) for part in parts), strict=True)
        for s, (to_cn_s, dy_s, f_s, to_o_s, from_c_s, from_n_s, draw_s) in reversed(list(enumerate(by_step))):
            carry.add_(dy_s)
            dcn.addcmul_(carry, to_cn_s)
            torch.mul(dc_wide, from_c_s, out=d_ifz)
            d_if.addcmul_(dn_wide, from_n_s)
            torch.mul(carry, to_o_s, out=d_o)
            dcn.mul_(f_s)
            draw_s.copy_(dgates)
            torch.bmm(step, weights_back, out=carry)
            if cut is not None:
                carry.masked_fill_(cut[:, s], 0.0)
        dweights.baddbmm_(h_in.transpose(1, 2), draw.view(heads, -1, 4 * size))
        dx[:, start:stop] = draw.permute(2, 1, 3, 0, 4)
    dh, dc, dn = own(carry, *dcn)
    return dx, unmixing(dweights), dh, dc, dn


def _factors(raw: Tensor, cn_in: Tensor, cn: Tensor, m_in: Tensor, m: Tensor, exp_f: bool):
    """What the gradients of a block's steps are multiplied by, all steps at once.

    Returns f' (H, S, B, K); dh -> dc, dn (2, H, S, B, K); dh -> d raw_o (H, S, B, K);
    dc -> d raw_i, d raw_f, d raw_z (H, S, B, 3, K); dn -> d raw_i, d raw_f (H, S, B, 2, K).
    """
    raw_i, raw_f, raw_z, raw_o = raw.unbind(3)
    i = torch.exp(raw_i - m)
    f = torch.exp((raw_f if exp_f else logsigmoid(raw_f)) + (m_in - m))
    z, o = raw_z.tanh(), raw_o.sigmoid()
    slope = f if exp_f else f * torch.sigmoid(-raw_f)
    over_n = o / cn[1]
    ratio = cn[0] / cn[1]
    to_cn, to_o = torch.stack([over_n, -over_n * ratio]), ratio * o * (1 - o)
    from_c = torch.stack([z * i, cn_in[0] * slope, i * (1 - z * z)], 3)
    from_n = torch.stack([i, cn_in[1] * slope], 3)
    return f, to_cn, to_o, from_c, from_n


@_forward.register_fake
def _(x, r, h, c, n, m, reset, exp_f, saves):
    batch, steps, _, heads, size = x.shape
    y = x.new_empty(batch, steps, heads, size)
    last = [torch.empty_like(h, memory_format=torch.contiguous_format) for _ in range(4)]
    if not saves:
        return y, *last, h.new_empty(0), h.new_empty(0), h.new_empty(0)
    kept = (heads, steps + 1, batch, size)
    return y, *last, h.new_empty(kept), h.new_empty(2, *kept), h.new_empty(kept)


@_backward.register_fake
def _(dy, dh, dc, dn, x, r, hs, cns, ms, reset, exp_f):
    states = [torch.empty_like(dh, memory_format=torch.contiguous_format) for _ in range(3)]
    return torch.empty_like(x, memory_format=torch.contiguous_format), r.new_empty(r.shape), *states


def _save(ctx, inputs, output):
    x, r, _, _, _, _, reset, ctx.exp_f, _ = inputs
    expect(ctx, *output[:4])
    ctx.save_for_backward(x, r, *output[5:], reset)


def _gradients(ctx, *gradients):
    given = received(ctx, *gradients)
    dx, dr, dh, dc, dn = torch.ops.exgate.slstm_eager_backward(*given, *ctx.saved_tensors, ctx.exp_f)
    return dx, dr, dh, dc, dn, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
