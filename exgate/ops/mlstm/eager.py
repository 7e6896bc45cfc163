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

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from exgate.ops.autograd import expect, once, received
from exgate.ops.mlstm import reference

GROUP_NUMBERS = 1 << 17  # numbers of q in a group of chunks: half a megabyte in float32


def refuses(*args) -> str | None:
    return None


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size):
    if q.shape[1] == 1:  # a step needs no chunk: plain operations, which export
        return reference.run(q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
    if q.dtype == torch.float16:  # a memory in float16 overflows: only the inputs are
        q, k, v = q.float(), k.float(), v.float()
    c, n, m = reference.start(state, q, v)
    kind = c.dtype
    size = min(q.shape[1], chunk_size) if chunk_size else _chunk_size(q.shape[1], q.shape[-1], v.shape[-1])
    op = _chunkwise if _exports_plainly(q) else torch.ops.exgate.mlstm_eager
    options = (size, input_gate == "exp", normalize, eps, torch.is_grad_enabled())
    h, c, n, m, *_ = op(q, k, v, i.to(kind), f.to(kind), c, n, m, reset, *options)
    return h, (c, n, m.detach())


def _exports_plainly(q: Tensor) -> bool:
    """Whether to be written out as PyTorch's own operations: for a shape that is fixed, and without gradients."""
    fixed = all(isinstance(size, int) for size in q.shape)
    return torch.compiler.is_exporting() and fixed and not torch.is_grad_enabled()


def _chunk_size(steps: int, key: int, value: int) -> int:
    """64 steps, or 128 for large heads, made equal over the chunks."""
    size = 128 if key * value >= 1 << 16 else 64
    return -(-steps // -(-steps // size))


class _Gates:
    """The scalars of a sequence, (N, B, H, L) for N chunks of L steps; the last is filled up with closed gates."""

    def __init__(self, i: Tensor, f: Tensor, m: Tensor, reset: Tensor | None, size: int, exponential: bool, key: int):
        filled = (0, -i.shape[1] % size)
        log_f = pad(logsigmoid(f).transpose(1, 2), filled)
        log_i = pad((i if exponential else logsigmoid(i)).transpose(1, 2), filled, value=-torch.inf)
        begins = None if reset is None else pad(reset, filled)[:, None]
        ms = _stabilizer(log_f, log_i, m, begins) if exponential else torch.zeros_like(log_f)
        ms, log_f, log_i = (_by_chunk(x, size) for x in (ms, log_f, log_i))
        self.m, self.document = ms, None
        before = torch.cat([m[None, ..., None], ms[:-1, ..., -1:]])  # m before each chunk
        if begins is not None:  # no decay reaches across a reset, so what f says at one counts for m alone
            begins = _by_chunk(begins, size)
            log_f, self.document = log_f.masked_fill(begins, 0.0), begins.cumsum(-1)
        b = log_f.cumsum(-1)
        end, m_end = b[..., -1:], ms[..., -1:]
        self.rows = b - ms - 0.5 * math.log(key)  # D_ts = exp(rows_t + columns_s), with the scale of q
        self.columns = log_i - b
        self.from_start = torch.exp(self.rows + before)  # g
        self.to_end = torch.exp(self.columns + (end - m_end))  # w
        self.through = torch.exp(end + before - m_end)  # (N, B, H, 1)
        if self.document is not None:
            last = self.document[..., -1:]
            self.from_start = self.from_start.masked_fill(self.document != 0, 0.0)
            self.to_end = self.to_end.masked_fill(self.document != last, 0.0)
            self.through = self.through.masked_fill(last != 0, 0.0)
        self.causal = torch.ones(size, size, dtype=torch.bool, device=i.device).tril()

    def seen(self, group: slice) -> Tensor:
        """Which s each t sees, (L, L) or (n, B, 1, L, L)."""
        if self.document is None:
            return self.causal
        document = self.document[group]
        return self.causal & (document[..., :, None] == document[..., None, :])

    def weights(self, group: slice) -> Tensor:
        """D of a group of chunks, (n, B, H, L, L)."""
        weights = self.rows[group][..., None] + self.columns[group][..., None, :]
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


def _by_chunk(x: Tensor, size: int) -> Tensor:
    """(B, H, N L) -> (N, B, H, L)."""
    return x.unflatten(2, (-1, size)).permute(2, 0, 1, 3).contiguous()


def _by_step(x: Tensor, steps: int) -> Tensor:
    """The way back: (N, B, H, L) -> (B, T, H)."""
    return x.permute(1, 0, 3, 2).flatten(1, 2)[:, :steps].clone(memory_format=torch.contiguous_format)


def _groups(gates: _Gates, key: int) -> list[slice]:
    count, batch, heads, size = gates.m.shape
    chunks = max(1, GROUP_NUMBERS // (batch * heads * size * key))
    return [slice(start, min(start + chunks, count)) for start in range(0, count, chunks)]


def _chunks(x: Tensor, group: slice, size: int, kind: torch.dtype) -> Tensor:
    """A copy of the chunks `group` of x (B, T, H, K) as (n, B, H, L, K), filled up with zeros."""
    part = x[:, group.start * size : group.stop * size]
    filled = (group.stop - group.start) * size - part.shape[1]
    part = pad(part, (0, 0, 0, 0, 0, filled)) if filled else part
    part = part.unflatten(1, (-1, size)).permute(1, 0, 3, 2, 4)
    return torch.empty(part.shape, dtype=kind, device=x.device).copy_(part)


def _store(x: Tensor, group: slice, size: int, part: Tensor) -> None:
    """Write chunks (n, B, H, L, K) back to their steps of x (B, T, H, K)."""
    steps = slice(group.start * size, min(group.stop * size, x.shape[1]))
    x[:, steps] = part.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, : steps.stop - steps.start]


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """A batched matrix product, written to `out` if its type allows."""
    if out is not None and out.dtype == a.dtype:
        torch.bmm(a.flatten(0, 2), b.flatten(0, 2), out=out.view(-1, *out.shape[3:]))
        return out
    product = torch.bmm(a.flatten(0, 2), b.flatten(0, 2)).unflatten(0, a.shape[:3])
    return product if out is None else out.copy_(product)


def _scale(nq: Tensor, m: Tensor, normalize: bool, eps: float) -> Tensor:
    """What num is multiplied by, (n, B, H, L, 1): one over the denominator, or exp(m) where there is none."""
    scale = 1 / (torch.maximum(nq.abs(), torch.exp(-m)) + eps) if normalize else torch.exp(m)
    return scale[..., None]


def _chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor, n: Tensor, m: Tensor, reset: Tensor | None,
    size: int, exponential: bool, normalize: bool, eps: float, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h, the last state, and for backward c and n before each chunk and after the last, and nq of every step."""
    (batch, _, heads, key), value, kind, operands = q.shape, v.shape[-1], c.dtype, q.dtype
    gates = _Gates(i, f, m, reset, size, exponential, key)
    groups = _groups(gates, key)
    kept = gates.m.shape[0] if saves else groups[0].stop
    cs, ns = c.new_empty(kept + 1, batch, heads, key, value), c.new_empty(kept + 1, batch, heads, key)
    cs[0], ns[0] = c, n
    h, nqs, last = v.new_empty(v.shape), torch.ones_like(gates.m), 0
    for group in groups:
        count, at = group.stop - group.start, last
        if not saves and group.start:
            cs[0], ns[0], at = cs[last], ns[last], 0
        last = at + count
        qs, ks, vs = (_chunks(x, group, size, operands) for x in (q, k, v))
        ws = ks * gates.to_end[group][..., None].to(operands)
        _product(ws.transpose(-1, -2), vs, out=cs[at + 1 : last + 1])
        torch.sum(ws, -2, dtype=kind, out=ns[at + 1 : last + 1])
        for j, through in enumerate(gates.through[group].unbind(0), at):
            cs[j + 1].addcmul_(through[..., None], cs[j])
            ns[j + 1].addcmul_(through, ns[j])
        scores = _product(qs, ks.transpose(-1, -2)).to(kind).mul_(gates.weights(group))
        nq = scores.sum(-1)
        num = _product(scores.to(operands), vs).to(kind)
        qs *= gates.from_start[group][..., None].to(operands)
        num += _product(qs, cs[at:last].to(operands))
        nq += _product(qs, ns[at:last, ..., None].to(operands))[..., 0]
        nqs[group] = nq
        num *= _scale(nq, gates.m[group], normalize, eps)
        _store(h, group, size, num)
    # nq lies flat: a dimension of chunks, which may be one or many, would tie an exported program to few or many steps
    saved = (cs, ns, nqs.flatten()) if saves else (c.new_empty(0), c.new_empty(0), c.new_empty(0))
    return h, cs[last].clone(), ns[last].clone(), gates.m[-1, ..., -1].clone(), *saved


_forward = torch.library.custom_op("exgate::mlstm_eager", _chunkwise, mutates_args=())


def _chunkwise_backward(
    dh: Tensor, dc: Tensor, dn: Tensor, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, m: Tensor,
    reset: Tensor | None, h: Tensor, cs: Tensor, ns: Tensor, nqs: Tensor,
    size: int, exponential: bool, normalize: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    steps, key, kind, operands = q.shape[1], q.shape[-1], cs.dtype, q.dtype
    gates = _Gates(i, f, m, reset, size, exponential, key)
    nqs = nqs.view(gates.m.shape)
    dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    dlog_i, dlog_f = torch.empty_like(gates.m), torch.empty_like(gates.m)
    for group in reversed(_groups(gates, key)):
        count = group.stop - group.start
        qs, ks, vs = (_chunks(x, group, size, operands) for x in (q, k, v))
        dnum, dnq = _chunks(dh, group, size, kind), None
        nq, m_group = nqs[group], gates.m[group]
        dnum *= _scale(nq, m_group, normalize, eps)
        if normalize:
            dden = -(dnum * _chunks(h, group, size, kind)).sum(-1)
            dnq = (dden * torch.sign(nq) * (nq.abs() >= torch.exp(-m_group)))[..., None]
        dnum = dnum.to(operands)
        from_start, to_end = (x[group][..., None].to(operands) for x in (gates.from_start, gates.to_end))
        # the states' gradients, from the last chunk to the first: before chunk j in [j], after it in [j + 1]
        gq = (qs * from_start).transpose(-1, -2)
        dcs, dns = cs.new_empty(count + 1, *cs.shape[1:]), ns.new_zeros(count + 1, *ns.shape[1:])
        _product(gq, dnum, out=dcs[:count])
        if dnq is not None:
            dns[:count] = _product(gq, dnq.to(operands))[..., 0]
        dcs[count], dns[count] = dc, dn
        for j, through in reversed(list(enumerate(gates.through[group].unbind(0)))):
            dcs[j].addcmul_(through[..., None], dcs[j + 1])
            dns[j].addcmul_(through, dns[j + 1])
        dc, dn = dcs[0], dns[0]
        after = slice(group.start + 1, group.stop + 1)
        boundary = _inner(cs[after], dcs[1:]) + (ns[after] * dns[1:]).sum(-1)
        # the chunks themselves
        weights = gates.weights(group)
        scores = _product(qs, ks.transpose(-1, -2)).to(kind).mul_(weights).to(operands)
        dscores = _product(dnum, vs.transpose(-1, -2)).to(kind)
        dscores = (dscores if dnq is None else dscores.add_(dnq)).mul_(weights).to(operands)
        dcs = dcs[1:].to(operands)
        dqs = _product(dnum, cs[group].to(operands).transpose(-1, -2))
        if dnq is not None:
            dqs.addcmul_(dnq.to(operands), ns[group][..., None, :].to(operands))
        dqs = _product(dscores, ks).addcmul_(dqs, from_start)
        dks = _product(vs, dcs.transpose(-1, -2)).add_(dns[1:, ..., None, :].to(operands))
        dks = _product(dscores.transpose(-1, -2), qs).addcmul_(dks, to_end)
        dvs = _product(scores.transpose(-1, -2), dnum).add_(_product(ks * to_end, dcs))
        for out, part in ((dq, dqs), (dk, dks), (dv, dvs)):
            _store(out, group, size, part)
        columns = ks.mul_(dks).sum(-1, dtype=kind)
        dlog_i[group] = columns
        dlog_f[group] = _decay_gradient(qs.mul_(dqs).sum(-1, dtype=kind) - columns, boundary, gates, group)
    di, df = (_by_step(x, steps) for x in (dlog_i, dlog_f))
    if reset is not None:
        df = df.masked_fill(reset[..., None], 0.0)
    di = di if exponential else di * torch.sigmoid(-i)
    return dq, dk, dv, di, df * torch.sigmoid(-f), dc.clone(), dn.clone()


_backward = once(torch.library.custom_op("exgate::mlstm_eager_backward", _chunkwise_backward, mutates_args=()))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner products of matrices (n, B, H, K, V), without a copy of their size."""
    return torch.bmm(a.flatten(3).flatten(0, 2)[:, None], b.flatten(3).flatten(0, 2)[..., None]).view(a.shape[:3])


def _decay_gradient(db: Tensor, boundary: Tensor, gates: _Gates, group: slice) -> Tensor:
    """d log f_t: the sum over t' >= t, in t's document, of db_t', and the last state's part if it is t's."""
    if gates.document is None:
        return torch.matmul(db, gates.causal.to(db.dtype)) + boundary[..., None]
    inside = torch.matmul(db[..., None, :], gates.seen(group).to(db.dtype))[..., 0, :]
    document = gates.document[group]
    return inside + boundary[..., None] * (document == document[..., -1:])


@_forward.register_fake
def _(q, k, v, i, f, c, n, m, reset, size, exponential, normalize, eps, saves):
    batch, steps, heads, key = q.shape
    count = -(-steps // size)
    last = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (c, n, m)]
    sums = (count + 1, batch, heads, key)
    shapes = [(*sums, v.shape[-1]), sums, (count * batch * heads * size,)]
    return v.new_empty(v.shape), *last, *(c.new_empty(shape if saves else (0,)) for shape in shapes)


@_backward.register_fake
def _(dh, dc, dn, q, k, v, i, f, m, reset, h, cs, ns, nqs, size, exponential, normalize, eps):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, i, f, dc, dn))


def _save(ctx, inputs, output):
    q, k, v, i, f, _, _, m, reset, *ctx.options, _ = inputs
    h, c, n, _, *saved = output
    expect(ctx, h, c, n)
    ctx.save_for_backward(q, k, v, i, f, m, reset, h, *saved)


def _gradients(ctx, *gradients):
    given = received(ctx, *gradients)
    found = torch.ops.exgate.mlstm_eager_backward(*given, *ctx.saved_tensors, *ctx.options)
    return *found, None, None, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
