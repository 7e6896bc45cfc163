r"""WKV in plain PyTorch: all chunks walk side by side, and only their states go from one to the next.

The state is read as h = c / n, the mean so far, and l = m + log n, the weight behind it. A step is then two sigmoids
and nothing that could overflow, whatever the keys and the decay:

    p = sigmoid(u + k - l)      y = h + p (v - h)
    g = sigmoid(w + k - l)      h' = h + g (v - h)      l' = log(e^(l - w) + e^k)

The empty state is l = -inf: both gates are 1. A chunk's own h and l come from one weighted sum, so that first the
states between chunks are found, by a loop over chunks, and then all chunks go through their steps at the same time.

Backward goes the same way from the end. With r = 1 - g, a = dL/dh for fixed n, and b = n dL/dn for fixed c, the two are
the recurrences a <- r a + (1 - p) dy and b <- r b - (1 - p) dy y, and

    dv = p dy + g a      dk = g (a v + b) + p dy (v - y)      du = sum p dy (v - y)      dw = - sum r (h a + b)
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from exgate.ops.autograd import expect, once, received
from exgate.ops.dispatch import state_type
from exgate.ops.wkv import reference

CHUNK = 32  # steps; a sequence of T takes CHUNK + T / CHUNK rounds of Python
NEVER = float("-inf")


def refuses(*args) -> str | None:
    return None


def run(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state, reset: Tensor | None, *, op=None):
    """`op`: the custom op that does the work, in place of this file's."""
    op = op or torch.ops.exgate.wkv_eager
    if k.shape[1] == 1:  # a step needs no loop: plain operations, which export
        return reference.run(k, v, w, u, state, reset)
    kind, state_kind = v.dtype, state_type(k, v)
    inputs = (x.to(state_kind) for x in (k, v, w, u))
    c, n, m = state
    m, empty = m.detach(), n <= 0
    n = n.masked_fill(empty, 1.0)
    h, l = c / n, (m + n.log()).masked_fill(empty, NEVER)
    y, h, l, m, *_ = op(*inputs, h, l, m, reset, CHUNK, torch.is_grad_enabled())
    n = (l - m).exp()
    return y.to(kind), type(state)(h * n, n, m)


@torch.library.custom_op("exgate::wkv_eager", mutates_args=())
def _forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, h: Tensor, l: Tensor, m: Tensor,
    reset: Tensor | None, chunk: int, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, the last h, l and m, and for backward h and l before each chunk, (B, chunks, D) each, flat.

    A dimension of chunks, which may be one or many, would tie an exported program to few or many steps.
    """
    hs, ls, m = _between(k, v, w, h, l, m, reset, chunk)
    y, h, l = torch.empty_like(k, memory_format=torch.contiguous_format), hs, ls
    last = (k.shape[1] - 1) % chunk
    for at, (_, _, _, y_at, h_at, l_at) in enumerate(_steps(k, v, w, u, hs, ls, reset, chunk)):
        y[:, at::chunk] = y_at
        if at == last:
            h, l = h_at[:, -1].clone(), l_at[:, -1].clone()
    saved = (hs.flatten(), ls.flatten()) if saves else (h.new_empty(0), h.new_empty(0))
    return y, h, l, m, *saved


def _steps(k, v, w, u, h, l, reset, chunk) -> Iterator[tuple[Tensor, ...]]:
    """Each place in a chunk, in all chunks that have it (B, chunks, D): h before, p, g, y, and h and l after."""
    for at in range(min(chunk, k.shape[1])):
        k_at, v_at = k[:, at::chunk], v[:, at::chunk]
        h, l = h[:, : k_at.shape[1]], l[:, : k_at.shape[1]]
        if reset is not None:
            l = l.masked_fill(reset[:, at::chunk, None], NEVER)
        ahead = k_at - l
        p, g = (ahead + u).sigmoid_(), (ahead + w).sigmoid_()
        after = torch.lerp(h, v_at, g)
        l = torch.logaddexp(l - w, k_at)
        yield h, p, g, torch.lerp(h, v_at, p), after, l
        h = after


def _between(k, v, w, h, l, m, reset, chunk) -> tuple[Tensor, Tensor, Tensor]:
    """h and l before each chunk, (B, chunks, D) each, and m (B, D) after the last step."""
    batch, steps, dim = k.shape
    whole = (steps - 1) // chunk  # chunks before the last one, which may be shorter
    cut = whole * chunk
    hs, ls = k.new_empty(batch, whole + 1, dim), k.new_empty(batch, whole + 1, dim)
    keys, ends = _aged(k[:, :cut].unflatten(1, (whole, chunk)), w, None if reset is None else reset[:, :cut])
    tops = keys.amax(2)
    keys.sub_(tops[:, :, None]).exp_()
    sums = keys.sum(2)
    means = keys.mul_(v[:, :cut].unflatten(1, (whole, chunk))).sum(2).div_(sums)
    weights = sums.log_().add_(tops)
    for number in range(whole):
        hs[:, number], ls[:, number] = h, l
        l, m = l - chunk * w, m - chunk * w
        if ends is not None:
            l, m = l.masked_fill(ends[:, number], NEVER), m.masked_fill(ends[:, number], NEVER)
        own, mean = weights[:, number], means[:, number]
        h = torch.lerp(mean, h, torch.sigmoid(l - own))
        l, m = torch.logaddexp(l, own), torch.maximum(m, tops[:, number])
    hs[:, whole], ls[:, whole] = h, l
    keys, ends = _aged(k[:, None, cut:], w, None if reset is None else reset[:, cut:])
    m = m - (steps - cut) * w
    m = m if ends is None else m.masked_fill(ends[:, 0], NEVER)
    return hs, ls, torch.maximum(m, keys.amax(2)[:, 0])


def _aged(k: Tensor, w: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Keys (B, chunks, S, D) as they count after their chunk's last step, and where a document begins in the chunk.

    Keys of earlier documents than the one at the chunk's end do not count: they are -inf.
    """
    age = torch.arange(k.shape[2] - 1, -1, -1, device=k.device, dtype=k.dtype)
    keys = k - age[:, None] * w
    if reset is None:
        return keys, None
    document = torch.cumsum(reset.unflatten(1, k.shape[1:3]), 2)
    return keys.masked_fill_((document != document[:, :, -1:])[..., None], NEVER), document[:, :, -1:] > 0


@once
@torch.library.custom_op("exgate::wkv_eager_backward", mutates_args=())
def _backward(
    dy: Tensor, dh: Tensor, dl: Tensor,
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, last: Tensor, hs: Tensor, ls: Tensor, reset: Tensor | None, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    hs, ls = (x.view(k.shape[0], -1, k.shape[2]) for x in (hs, ls))
    steps = []
    for at, (h, p, g, y, _, _) in enumerate(_steps(k, v, w, u, hs, ls, reset, chunk)):
        bonus, q = p * dy[:, at::chunk], (1 - p).mul_(dy[:, at::chunk])
        steps.append((at, h, y, g, 1 - g, bonus, q, q * y))
    a, b, kept = torch.zeros_like(hs), torch.zeros_like(hs), torch.ones_like(hs)
    for _, h, _, _, r, _, q, qy in reversed(steps):
        here = slice(h.shape[1])
        a[:, here].mul_(r).add_(q)
        b[:, here].mul_(r).sub_(qy)
        kept[:, here].mul_(r)
    a_last, b_last = dh, dl - dh * last
    for number in reversed(range(hs.shape[1])):  # from each chunk's own share to what arrives at its end
        before = a[:, number] + kept[:, number] * a_last, b[:, number] + kept[:, number] * b_last
        a[:, number], b[:, number] = a_last, b_last
        a_last, b_last = before
    dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))
    dw, du = torch.zeros_like(w), torch.zeros_like(u)
    for at, h, y, g, r, bonus, q, qy in reversed(steps):
        a_at, b_at, v_at = a[:, : h.shape[1]], b[:, : h.shape[1]], v[:, at::chunk]
        dv[:, at::chunk] = torch.addcmul(bonus, g, a_at)
        bonus.mul_(v_at - y)
        dk[:, at::chunk] = torch.addcmul(bonus, g, torch.addcmul(b_at, a_at, v_at))
        du += bonus.sum((0, 1))
        dw -= torch.addcmul(b_at, a_at, h).mul_(r).sum((0, 1))
        a_at.mul_(r).add_(q)
        b_at.mul_(r).sub_(qy)
    return dk, dv, dw, du, a_last.clone(), b_last + a_last * hs[:, 0]


def outputs(k, v, w, u, h, l, m, reset, chunk, saves) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for what forward returns."""
    batch, steps, dim = k.shape
    kept = (batch * ((steps - 1) // chunk + 1) * dim if saves else 0,)
    h, l, m = (k.new_empty(batch, dim) for _ in range(3))
    return k.new_empty(k.shape), h, l, m, k.new_empty(kept), k.new_empty(kept)


def gradients(dy, dh, dl, k, v, w, u, last, hs, ls, reset, chunk) -> tuple[Tensor, ...]:
    """Room for what backward returns."""
    return tuple(x.new_empty(x.shape) for x in (k, v, w, u, dh, dl))


def save(ctx, inputs, output) -> None:
    """Keeps what backward reads."""
    k, v, w, u, _, _, _, reset, chunk, _ = inputs
    expect(ctx, *output[:3])
    ctx.chunk = chunk
    ctx.save_for_backward(k, v, w, u, output[1], *output[4:], reset)


def backward_by(name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """Backward for autograd, by the custom op of this name."""

    def backward(ctx, *given):
        found = getattr(torch.ops.exgate, name)(*received(ctx, *given), *ctx.saved_tensors, ctx.chunk)
        return *found, None, None, None, None

    return backward


_forward.register_fake(outputs)
_backward.register_fake(gradients)
_forward.register_autograd(backward_by("wkv_eager_backward"), setup_context=save)
