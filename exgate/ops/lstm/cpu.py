"""LSTM on the CPU by the compiled kernel of cpu.cpp: one call for the whole sequence, forward or backward."""

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.lstm import step


def refuses(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None) -> str | None:
    return native.refuses(x, r, *state, peephole, reset)


def run(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None):
    if x.shape[1] == 1:
        h, last = step.run(x, r, state, peephole, reset)
        return h, type(state)(*last)
    kind, r, peephole = x.dtype, r.float(), None if peephole is None else peephole.float()
    x = x if kind == torch.bfloat16 else x.float()
    inputs = (x, r, *state) if peephole is None else (x, r, *state, peephole)
    saves = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    h, *last = torch.ops.exgate.lstm_cpu(x, r, *state, peephole, reset, saves)
    return h.to(kind), type(state)(*last[:2])


@torch.library.custom_op("exgate::lstm_cpu", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, peephole: Tensor | None, reset: Tensor | None, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output in float32, the last state, and for backward the gates (H, T, B, 4, K) and c between blocks."""
    batch, steps, _, heads, size = x.shape
    sizes = (batch, steps, heads, size)
    x, r, h, c, peephole, reset = native.contiguous(x, r, h, c, peephole, reset)
    y, last = h.new_empty(batch, steps, heads, size), [h.new_empty(batch, heads, size) for _ in range(2)]
    gates = kept = None
    if saves:
        gates = h.new_empty(heads, steps, batch, 4, size)
        kept = h.new_empty(-(-steps // native.BLOCK), batch, heads, size)
    threads, half = native.threads(), x.dtype == torch.bfloat16
    with native.workspace(native.call("exgate_lstm_space", *sizes, False, threads)) as space:
        state = native.pointers(h, c, *last)
        native.call(
            "exgate_lstm_forward", *sizes, half, x, r, state, peephole, reset, y, gates, kept, space, threads
        )  # fmt: skip
    if gates is None or kept is None:
        return y, last[0], last[1], h.new_empty(0), h.new_empty(0)
    return y, last[0], last[1], gates, kept


@torch.library.custom_op("exgate::lstm_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dy: Tensor, dh: Tensor, dc: Tensor,
    r: Tensor, y: Tensor, h: Tensor, gates: Tensor, kept: Tensor, peephole: Tensor | None, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, steps, heads, size = sizes = y.shape
    dy, dh, dc, r, h, peephole, reset = native.contiguous(dy, dh, dc, r, h, peephole, reset)
    first = [torch.empty_like(dh), torch.empty_like(dc)]
    dx, dr = y.new_empty(batch, steps, 4, heads, size), torch.empty_like(r)
    dpeephole = y.new_zeros(batch, 3, heads, size) if peephole is None else y.new_empty(batch, 3, heads, size)
    threads = native.threads()
    with native.workspace(native.call("exgate_lstm_space", *sizes, True, threads)) as space:
        states = native.pointers(dh, dc, *first)
        native.call(
            "exgate_lstm_backward", *sizes, dy, r, y, h, gates, kept, peephole, reset, states, dx, dr, dpeephole,
            space, threads,
        )  # fmt: skip
    return dx, dr, first[0], first[1], dpeephole.sum(0)


@_forward.register_fake
def _(x, r, h, c, peephole, reset, saves):
    batch, steps, _, heads, size = x.shape
    y, last = h.new_empty(batch, steps, heads, size), [h.new_empty(batch, heads, size) for _ in range(2)]
    if not saves:
        return y, *last, h.new_empty(0), h.new_empty(0)
    return (
        y,
        *last,
        h.new_empty(heads, steps, batch, 4, size),
        h.new_empty(-(-steps // native.BLOCK), batch, heads, size),
    )


@_backward.register_fake
def _(dy, dh, dc, r, y, h, gates, kept, peephole, reset):
    batch, steps, heads, size = y.shape
    first = [h.new_empty(batch, heads, size) for _ in range(2)]
    return y.new_empty(batch, steps, 4, heads, size), r.new_empty(r.shape), *first, y.new_empty(3, heads, size)


def _save(ctx, inputs, output):
    x, r, h, _, peephole, reset, _ = inputs
    ctx.kind = x.dtype
    ctx.save_for_backward(r, output[0], h, *output[3:], peephole, reset)


def _gradients(ctx, dy, dh, dc, *_):
    saved = ctx.saved_tensors
    dx, dr, dh, dc, dpeephole = torch.ops.exgate.lstm_cpu_backward(dy, dh, dc, *saved)
    return dx.to(ctx.kind), dr, dh, dc, None if saved[5] is None else dpeephole, None, None


_forward.register_autograd(_gradients, setup_context=_save)
