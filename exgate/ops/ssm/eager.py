"""The selective scan in plain PyTorch: chunk by chunk, each chunk by a blocked scan.

With decay_t = exp(delta_t A) and w_t = delta_t u_t a step is h_t = decay_t h_{t-1} + w_t B_t. Steps compose, so a chunk
of R L steps is cut into R rows of L, which are scanned at the same time: a sweep over the L places gives what each row
adds to its last state; the rows' starts follow from each other, start <- exp(A sum delta) start + what the row adds; a
second sweep, from the starts, gives every h_t. Nothing is divided and no exponent is positive, so all is finite for
every delta. N stands before D in memory, because D is the longer one.

Kept for backward is h before each chunk. With dh_t = C_t dy_t + decay_{t+1} dh_{t+1}, the same scan from the end,

    dC_t = h_t dy_t    dB_t = dh_t w_t    dw_t = B_t dh_t    e_t = decay_t h_{t-1} dh_t
    dA = sum_t delta_t e_t    d delta_t = A e_t + u_t dw_t    du_t = delta_t dw_t + D dy_t
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from exgate.ops.autograd import expect, once, received
from exgate.ops.ssm import reference

CHUNK_NUMBERS = 1 << 19  # numbers of the states of a chunk: two megabytes in float32
SHORTEST = 16  # steps of a chunk, however large the state is


def refuses(*args) -> str | None:
    return None


def run(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, state, reset, chunk_size):
    if u.shape[1] == 1:  # a step needs no chunk: plain operations, which export
        return reference.run(u, delta, a, b, c, skip, state, reset)
    (h,) = state
    size = min(u.shape[1], chunk_size or max(SHORTEST, CHUNK_NUMBERS // max(1, h.numel())))
    skip = None if skip is None else skip.to(h.dtype)
    y, h, _ = torch.ops.exgate.ssm_eager(u, delta, a.to(h.dtype), b, c, skip, h, reset, size, torch.is_grad_enabled())
    return y, type(state)(h)


class _Chunk:
    """The steps `steps` of the inputs, laid out (L, R, B, ...): the place in a row first, then the row."""

    def __init__(self, steps: slice, rooms: dict[str, Tensor], u, delta, a: Tensor, b, c, reset) -> None:
        self.steps, self.rooms, self.kind, self.a = steps, rooms, a.dtype, a  # a (N, D)
        count = steps.stop - steps.start
        self.length = math.isqrt(count)  # about as many rows as places in a row
        self.rows = -(-count // self.length)
        self.u, self.delta = (self.cut(x)[..., None, :] for x in (u, delta))  # (L, R, B, 1, D)
        self.b, self.c = (self.cut(x)[..., None] for x in (b, c))  # (L, R, B, N, 1)
        self.begins = None if reset is None else self.cut(reset)[..., None, None]
        self.w = self.delta * self.u

    def cut(self, x: Tensor) -> Tensor:
        """A copy of the chunk's steps of x (B, T, ...), filled up with zeros: a step of zeros changes no state."""
        part = x[:, self.steps]
        kind = x.dtype if x.dtype == torch.bool else self.kind
        out = torch.zeros(len(x), self.rows * self.length, *x.shape[2:], dtype=kind, device=x.device)
        out[:, : part.shape[1]] = part
        return out.unflatten(1, (self.rows, self.length)).transpose(0, 2).contiguous()

    def room(self, name: str) -> Tensor:
        """Memory for (L, R, B, N, D), the same for every chunk: fresh memory takes as long as what is done in it."""
        shape = (self.length, self.rows, self.u.shape[2], *self.a.shape)
        if name not in self.rooms or self.rooms[name].numel() < math.prod(shape):
            self.rooms[name] = self.a.new_empty(math.prod(shape))
        return self.rooms[name][: math.prod(shape)].view(shape)

    def back(self, x: Tensor) -> Tensor:
        """(L, R, B, K) -> (B, steps, K)."""
        return x.transpose(0, 2).flatten(1, 2)[:, : self.steps.stop - self.steps.start]

    def states(self, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From h before the chunk (B, N, D): decay and h (L, R, B, N, D), and h before each row (R, B, N, D)."""
        decay = torch.mul(self.delta, self.a, out=self.room("decay")).exp_()
        through = (self.delta.sum(0) * self.a).exp_()
        if self.begins is not None:
            decay.masked_fill_(self.begins, 0.0)
            through.masked_fill_(self.begins.any(0), 0.0)
        h = torch.mul(self.w, self.b, out=self.room("h"))
        starts = torch.empty_like(through)
        starts[0] = start
        if self.rows > 1:
            ends = h[0, :-1].clone()
            for place in range(1, self.length):
                torch.addcmul(h[place, :-1], decay[place, :-1], ends, out=ends)
            for row in range(self.rows - 1):
                torch.addcmul(ends[row], through[row], starts[row], out=starts[row + 1])
        h[0].addcmul_(decay[0], starts)
        for place in range(1, self.length):
            h[place].addcmul_(decay[place], h[place - 1])
        self.through = through
        return decay, h, starts

    def gradients(self, decay: Tensor, dy: Tensor, end: Tensor) -> Tensor:
        """dh (L, R, B, N, D), after `states`; `end` (B, N, D) is what reaches the last h from later chunks."""
        dh = torch.mul(self.c, dy, out=self.room("dh"))
        ends = torch.empty_like(self.through)  # what reaches the last h of each row from later rows
        ends[-1] = end
        if self.rows > 1:
            firsts = dh[-1, 1:].clone()
            for place in range(self.length - 2, -1, -1):
                torch.addcmul(dh[place, 1:], decay[place + 1, 1:], firsts, out=firsts)
            firsts.mul_(decay[0, 1:])
            for row in range(self.rows - 1, 0, -1):
                torch.addcmul(firsts[row - 1], self.through[row], ends[row], out=ends[row - 1])
        dh[-1].add_(ends)
        for place in range(self.length - 2, -1, -1):
            dh[place].addcmul_(decay[place + 1], dh[place + 1])
        return dh


def _pieces(steps: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, steps)) for start in range(0, steps, size)]


def _scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, h: Tensor, reset: Tensor | None,
    size: int, saves: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, the last state, and for backward the state before each chunk, (chunks, B, N, D)."""
    y, a, h = torch.empty_like(u, memory_format=torch.contiguous_format), a.T.contiguous(), h.transpose(1, 2)
    pieces, rooms = _pieces(u.shape[1], size), {}
    kept = h.new_empty(len(pieces), *h.shape) if saves else h.new_empty(0)
    for number, steps in enumerate(pieces):
        if saves:
            kept[number] = h
        chunk = _Chunk(steps, rooms, u, delta, a, b, c, reset)
        _, hs, _ = chunk.states(h)
        part = (chunk.c.mT @ hs)[..., 0, :]
        part = part if skip is None else part.addcmul_(chunk.u[..., 0, :], skip)
        y[:, steps] = chunk.back(part)
        h = hs[-1, -1].clone()
    return y, h.transpose(1, 2).clone(memory_format=torch.contiguous_format), kept


_forward = torch.library.custom_op("exgate::ssm_eager", _scan, mutates_args=())


def _scan_backward(
    dy: Tensor, dh: Tensor, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None,
    reset: Tensor | None, kept: Tensor, size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    du, ddelta, db, dc = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, delta, b, c))
    a, dh = a.T.contiguous(), dh.transpose(1, 2)
    da, dskip, rooms = torch.zeros_like(a), a.new_zeros(a.shape[1]), {}
    for number, steps in reversed(list(enumerate(_pieces(u.shape[1], size)))):
        chunk = _Chunk(steps, rooms, u, delta, a, b, c, reset)
        decay, hs, starts = chunk.states(kept[number])
        dys = chunk.cut(dy)[..., None, :]
        dhs = chunk.gradients(decay, dys, dh)
        dc[:, steps] = chunk.back((hs @ dys.mT)[..., 0])
        db[:, steps] = chunk.back((dhs @ chunk.w.mT)[..., 0])
        dw = (chunk.b.mT @ dhs)[..., 0, :]
        e = decay.mul_(dhs)
        dh = e[0, 0].clone()
        e[0].mul_(starts)
        e[1:].mul_(hs[:-1])
        ddeltas = torch.mul(e, a, out=hs).sum(3).addcmul_(dw, chunk.u[..., 0, :])
        dus = dw.mul_(chunk.delta[..., 0, :])
        if skip is not None:
            dus.addcmul_(dys[..., 0, :], skip)
            dskip += (dys * chunk.u).sum((0, 1, 2, 3))
        du[:, steps], ddelta[:, steps] = chunk.back(dus), chunk.back(ddeltas)
        da += e.mul_(chunk.delta).sum((0, 1, 2))
    return du, ddelta, da.T.contiguous(), db, dc, dskip, dh.transpose(1, 2).clone(memory_format=torch.contiguous_format)


_backward = once(torch.library.custom_op("exgate::ssm_eager_backward", _scan_backward, mutates_args=()))


@_forward.register_fake
def _(u, delta, a, b, c, skip, h, reset, size, saves):
    count = -(-u.shape[1] // size)
    kept = (count, h.shape[0], h.shape[2], h.shape[1]) if saves else (0,)
    return u.new_empty(u.shape), h.new_empty(h.shape), h.new_empty(kept)


@_backward.register_fake
def gradients(dy, dh, u, delta, a, b, c, skip, reset, kept, size):
    """Memory for what backward returns."""
    return (*(x.new_empty(x.shape) for x in (u, delta, a, b, c)), a.new_empty(a.shape[0]), dh.new_empty(dh.shape))


def save(ctx, inputs, output) -> None:
    """Keeps what backward reads."""
    *tensors, _, reset, ctx.size, _ = inputs
    expect(ctx, *output[:2])
    ctx.save_for_backward(*tensors, reset, output[2])


def backward_by(name: str) -> Callable[..., tuple[Tensor | None, ...]]:
    """Backward for autograd, by the custom op of this name."""

    def backward(ctx, *gradients):
        given, saved = received(ctx, *gradients), ctx.saved_tensors
        *found, dskip, dh = getattr(torch.ops.exgate, name)(*given, *saved, ctx.size)
        return *found, None if saved[5] is None else dskip, dh, None, None, None

    return backward


_forward.register_autograd(backward_by("ssm_eager_backward"), setup_context=save)
