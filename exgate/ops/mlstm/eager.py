"""mLSTM in plain PyTorch: chunkwise, as batched matrix products.

With b the sum of log f inside a chunk, m the stabiliser of every step (found first, by a scan), and C_0, n_0, m_0 the
state before the chunk, a chunk of L steps is

    D_ts = exp(b_t - b_s + log i_s - m_t) for s <= t        P = (q k^T / sqrt(K)) * D
    num = P v + g q C_0      nq = P 1 + g q n_0             g_t = exp(b_t + m_0 - m_t) / sqrt(K)
    h = num / (max(|nq|, exp(-m)) + eps)
    C_L = exp(b_L + m_0 - m_L) C_0 + (w k)^T v              w_s = exp(b_L - b_s + log i_s - m_L)

All chunks of a group go through one product each; only C_0 and n_0 run through a loop over chunks. Groups are as large
as stays in cache, so memory beyond the inputs is one state per chunk. Backward keeps those states, computes P again and
walks the groups back; the gradients of the gates need no products of their own: with m a constant,
d log i_s = k_s . dk_s, and d log f_t is the sum of (q . dq - k . dk) over the rest of the chunk plus C_L . dC_L.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from exgate.ops.mlstm import reference

GROUP_NUMBERS = 1 << 18  # numbers of q in a group of chunks: 1 MB in float32


def refuses(*args) -> str | None:
    return None


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size):
    if q.shape[1] == 1:  # a step needs no chunk: plain operations, which export
        return reference.run(q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
    if q.dtype == torch.float16:  # a memory in float16 overflows: only the inputs are
        q, k, v = q.float(), k.float(), v.float()
    kind = state.c.dtype
    size = min(q.shape[1], chunk_size) if chunk_size else _chunk_size(q.shape[1], q.shape[-1], v.shape[-1])
    options = (size, input_gate == "exp", normalize, eps, torch.is_grad_enabled())
    op = _chunkwise if torch.compiler.is_exporting() else torch.ops.exgate.mlstm_eager
    h, *last = op(q, k, v, i.to(kind), f.to(kind), *state, reset, *options)
    return h, type(state)(last[0], last[1], last[2].detach())


def _chunk_size(steps: int, key: int, value: int) -> int:
    """64 steps, or 128 for large heads, made equal over the chunks."""
    size = 128 if key * value >= 1 << 16 else 64
    return -(-steps // -(-steps // size))


class _Gates:
    """The scalars of a sequence, (B, H, N, L) for N chunks of L steps; the last chunk is filled up with closed gates."""

    def __init__(self, i: Tensor, f: Tensor, m: Tensor, reset: Tensor | None, size: int, exponential: bool, key: int):
        batch, steps, heads = i.shape
        count = -(-steps // size)
        filled = (0, count * size - steps)
        log_f = pad(logsigmoid(f).transpose(1, 2), filled)
        log_i = pad((i if exponential else logsigmoid(i)).transpose(1, 2), filled, value=-torch.inf)
        begins = None if reset is None else pad(reset, filled)[:, None]
        ms = _stabilizer(log_f, log_i, m, begins) if exponential else torch.zeros_like(log_f)
        shape = (batch, heads, count, size)
        self.m = ms.view(shape)
        before = torch.cat([m[..., None], self.m[..., :-1, -1]], -1)[..., None]  # m before each chunk
        self.document = None
        if begins is not None:  # no decay reaches across a reset, so what f says at one counts for m alone
            log_f = log_f.masked_fill(begins, 0.0)
            self.document = begins.view(batch, 1, count, size).cumsum(-1)
        b = log_f.view(shape).cumsum(-1)
        end, m_end = b[..., -1:], self.m[..., -1:]
        self.rows = b - self.m - 0.5 * torch.log(b.new_tensor(float(key)))  # D_ts = exp(rows_t + columns_s), with the scale
        self.columns = log_i.view(shape) - b
        self.from_start = torch.exp(self.rows + before)  # g
        self.to_end = torch.exp(self.columns + (end - m_end))  # w
        self.through = torch.exp(end + before - m_end)  # (B, H, N, 1)
        if self.document is not None:
            last = self.document[..., -1:]
            self.from_start = self.from_start.masked_fill(self.document != 0, 0.0)
            self.to_end = self.to_end.masked_fill(self.document != last, 0.0)
            self.through = self.through.masked_fill(last != 0, 0.0)
        self.causal = torch.ones(size, size, dtype=torch.bool, device=i.device).tril()

    def seen(self, group: slice) -> Tensor:
        """Which s each t sees, (L, L) or (B, 1, n, L, L)."""
        if self.document is None:
            return self.causal
        document = self.document[:, :, group]
        return self.causal & (document[..., :, None] == document[..., None, :])

    def weights(self, group: slice) -> Tensor:
        """D of a group of chunks, (B, H, n, L, L)."""
        weights = self.rows[:, :, group, :, None] + self.columns[:, :, group, None, :]
        return weights.masked_fill_(~self.seen(group), -torch.inf).exp_()


def _stabilizer(log_f: Tensor, log_i: Tensor, m: Tensor, begins: Tensor | None) -> Tensor:
    """m_t = max(log f_t + m_{t-1}, log i_t) for all t of (B, H, T), by doubling: log2(T) passes, and no step loop."""
    with torch.no_grad():
        decay, peak = log_f, log_i
        if begins is not None:  # before a reset m counts as 0
            decay, peak = decay.masked_fill(begins, -torch.inf), torch.where(begins, torch.maximum(log_f, log_i), log_i)
        reach = 1
        while reach < log_f.shape[-1]:
            grown = torch.maximum(peak[..., :-reach] + decay[..., reach:], peak[..., reach:])
            peak = torch.cat([peak[..., :reach], grown], -1)
            decay = torch.cat([decay[..., :reach], decay[..., :-reach] + decay[..., reach:]], -1)
            reach *= 2
        return torch.maximum(decay + m[..., None], peak)


def _groups(gates: _Gates, key: int) -> list[slice]:
    batch, heads, count, size = gates.m.shape
    chunks = max(1, GROUP_NUMBERS // (batch * heads * size * key))
    return [slice(start, min(start + chunks, count)) for start in range(0, count, chunks)]


def _chunks(x: Tensor, group: slice, size: int, kind: torch.dtype) -> Tensor:
    """A copy of the chunks `group` of x (B, T, H, K) as (B, H, n, L, K), filled up with zeros."""
    part = x[:, group.start * size : group.stop * size].transpose(1, 2)
    filled = (group.stop - group.start) * size - part.shape[2]
    part = pad(part, (0, 0, 0, filled)) if filled else part
    return part.to(kind).contiguous().unflatten(2, (-1, size))


def _store(x: Tensor, group: slice, size: int, part: Tensor) -> None:
    """Write chunks (B, H, n, L, K) back to their steps of x (B, T, H, K)."""
    steps = slice(group.start * size, min(group.stop * size, x.shape[1]))
    x[:, steps] = part.flatten(2, 3)[:, :, : steps.stop - steps.start].transpose(1, 2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A batched matrix product; matmul would copy operands that bmm takes as they are."""
    return torch.bmm(a.flatten(0, 2), b.flatten(0, 2)).unflatten(0, a.shape[:3])


def _denominator(nq: Tensor, m: Tensor, eps: float) -> Tensor:
    return torch.maximum(nq.abs(), torch.exp(-m)) + eps


def _chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor, n: Tensor, m: Tensor, reset: Tensor | None,
    size: int, exponential: bool, normalize: bool, eps: float, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h, the last state, and for backward c and n before each chunk and after the last, and nq of every step."""
    (batch, steps, heads, key), value, kind, operands = q.shape, v.shape[-1], c.dtype, q.dtype
    gates = _Gates(i, f, m, reset, size, exponential, key)
    groups = _groups(gates, key)
    kept = gates.m.shape[2] if saves else groups[0].stop
    cs, ns = c.new_empty(batch, heads, kept + 1, key, value), c.new_empty(batch, heads, kept + 1, key)
    cs[:, :, 0], ns[:, :, 0] = c, n
    h, nqs = v.new_empty(v.shape), torch.ones_like(gates.m)
    for group in groups:
        count = group.stop - group.start
        at = group.start if saves else 0
        if not saves and group.start:
            cs[:, :, 0], ns[:, :, 0] = cs[:, :, kept].clone(), ns[:, :, kept].clone()
        qs, ks, vs = (_chunks(x, group, size, operands) for x in (q, k, v))
        ws = ks * gates.to_end[:, :, group, :, None].to(operands)
        dcs, dns = _product(ws.transpose(-1, -2), vs), ws.sum(-2, dtype=kind)
        for j in range(count):
            through = gates.through[:, :, group.start + j]
            cs[:, :, at + j + 1] = torch.addcmul(dcs[:, :, j].to(kind), through[..., None], cs[:, :, at + j])
            ns[:, :, at + j + 1] = torch.addcmul(dns[:, :, j], through, ns[:, :, at + j])
        start_c, start_n = cs[:, :, at : at + count], ns[:, :, at : at + count]
        scores = _product(qs, ks.transpose(-1, -2)).to(kind).mul_(gates.weights(group))
        nq = scores.sum(-1)
        num = _product(scores.to(operands), vs).to(kind)
        qs = qs * gates.from_start[:, :, group, :, None].to(operands)
        num += _product(qs, start_c.to(operands))
        nq += _product(qs, start_n[..., None].to(operands))[..., 0]
        nqs[:, :, group] = nq
        if normalize:
            num /= _denominator(nq, gates.m[:, :, group], eps)[..., None]
        _store(h, group, size, num)
    last = gates.m.shape[2] if saves else groups[-1].stop - groups[-1].start
    empty = c.new_empty(0)
    saved = (cs, ns, nqs) if saves else (empty, empty.clone(), empty.clone())
    return h, cs[:, :, last].clone(), ns[:, :, last].clone(), gates.m[:, :, -1, -1].clone(), *saved


_forward = torch.library.custom_op("exgate::mlstm_eager", _chunkwise, mutates_args=())


@torch.library.custom_op("exgate::mlstm_eager_backward", mutates_args=())
def _backward(
    dh: Tensor, dc: Tensor, dn: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, m: Tensor,
    reset: Tensor | None, h: Tensor, cs: Tensor, ns: Tensor, nqs: Tensor,
    size: int, exponential: bool, normalize: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (batch, steps, heads, key), kind, operands = q.shape, cs.dtype, q.dtype
    gates = _Gates(i, f, m, reset, size, exponential, key)
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    dlog_i, dlog_f = torch.empty_like(gates.m), torch.empty_like(gates.m)
    dc, dn = dc.clone(), dn.clone()
    for group in reversed(_groups(gates, key)):
        count = group.stop - group.start
        after = slice(group.start + 1, group.stop + 1)
        qs, ks, vs = (_chunks(x, group, size, operands) for x in (q, k, v))
        dnum, dnq = _chunks(dh, group, size, kind), None
        if normalize:
            nq, m_group = nqs[:, :, group], gates.m[:, :, group]
            den = _denominator(nq, m_group, eps)
            dnum = dnum / den[..., None]
            dden = -(dnum * _chunks(h, group, size, kind)).sum(-1)
            dnq = dden * torch.sign(nq) * (nq.abs() >= torch.exp(-m_group))
        dnum = dnum.to(operands)
        # the states' gradients, from the last chunk to the first
        from_start = gates.from_start[:, :, group, :, None].to(operands)
        gq = qs * from_start
        into_c = _product(gq.transpose(-1, -2), dnum)
        into_n = None if dnq is None else _product(gq.transpose(-1, -2), dnq[..., None].to(operands))[..., 0]
        dcs, dns = torch.empty_like(cs[:, :, group]), torch.empty_like(ns[:, :, group])
        for j in reversed(range(count)):
            through = gates.through[:, :, group.start + j]
            dcs[:, :, j], dns[:, :, j] = dc, dn
            dc = torch.addcmul(into_c[:, :, j].to(kind), through[..., None], dc)
            dn = dn * through if into_n is None else torch.addcmul(into_n[:, :, j].to(kind), through, dn)
        boundary = (cs[:, :, after] * dcs).sum((-1, -2)) + (ns[:, :, after] * dns).sum(-1)
        # the chunks themselves
        weights = gates.weights(group)
        scores = _product(qs, ks.transpose(-1, -2)).to(kind).mul_(weights).to(operands)
        dscores = _product(dnum, vs.transpose(-1, -2)).to(kind)
        if dnq is not None:
            dscores += dnq[..., None]
        dscores = dscores.mul_(weights).to(operands)
        dcs = dcs.to(operands)
        dqs = _product(dnum, cs[:, :, group].to(operands).transpose(-1, -2))
        if dnq is not None:
            dqs += dnq[..., None].to(operands) * ns[:, :, group, None].to(operands)
        dqs = _product(dscores, ks).add_(dqs.mul_(from_start))
        to_end = gates.to_end[:, :, group, :, None].to(operands)
        dks = _product(vs, dcs.transpose(-1, -2)).add_(dns[..., None, :].to(operands)).mul_(to_end)
        dks += _product(dscores.transpose(-1, -2), qs)
        dvs = _product(scores.transpose(-1, -2), dnum).add_(_product(ks * to_end, dcs))
        for out, part in ((dq, dqs), (dk, dks), (dv, dvs)):
            _store(out, group, size, part)
        columns = (ks * dks).sum(-1, dtype=kind)
        dlog_i[:, :, group] = columns
        dlog_f[:, :, group] = _decay_gradient((qs * dqs).sum(-1, dtype=kind) - columns, boundary, gates, group)
    di, df = (x.flatten(2)[..., :steps].transpose(1, 2).contiguous() for x in (dlog_i, dlog_f))
    if reset is not None:
        df = df.masked_fill(reset[..., None], 0.0)
    return dq, dk, dv, di if exponential else di * torch.sigmoid(-i), df * torch.sigmoid(-f), dc, dn


def _decay_gradient(db: Tensor, boundary: Tensor, gates: _Gates, group: slice) -> Tensor:
    """d log f_t: the sum over t' >= t, in t's document, of db_t', and the last state's part where it is t's document."""
    if gates.document is None:
        return torch.matmul(db, gates.causal.to(db.dtype)) + boundary[..., None]
    inside = torch.matmul(db[..., None, :], gates.seen(group).to(db.dtype))[..., 0, :]
    document = gates.document[:, :, group]
    return inside + boundary[..., None] * (document == document[..., -1:])


@_forward.register_fake
def _(q, k, v, i, f, c, n, m, reset, size, exponential, normalize, eps, saves):
    batch, steps, heads, key = q.shape
    count = -(-steps // size)
    last = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (c, n, m)]
    shapes = [(batch, heads, count + 1, key, v.shape[-1]), (batch, heads, count + 1, key), (batch, heads, count, size)]
    return v.new_empty(v.shape), *last, *(c.new_empty(shape if saves else (0,)) for shape in shapes)


@_backward.register_fake
def _(dh, dc, dn, q, k, v, i, f, m, reset, h, cs, ns, nqs, size, exponential, normalize, eps):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, i, f, dc, dn))


def _save(ctx, inputs, output):
    q, k, v, i, f, _, _, m, reset, *ctx.options, _ = inputs
    h, _, _, _, *saved = output
    ctx.save_for_backward(q, k, v, i, f, m, reset, h, *saved)


def _gradients(ctx, dh, dc, dn, *_):
    gradients = torch.ops.exgate.mlstm_eager_backward(dh, dc, dn, *ctx.saved_tensors, *ctx.options)
    return *gradients, None, None, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
