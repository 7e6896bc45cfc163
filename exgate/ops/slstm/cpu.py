"""sLSTM on the CPU by the compiled kernel of cpu.cpp: one call for the whole sequence, forward or backward."""

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.slstm import step


def refuses(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None) -> str | None:
    return native.refuses(x, r, *state, reset)


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    if x.shape[1] == 1:
        h, last = step.run(x, r, state, forget_gate, reset)
        return h, type(state)(*last)
    kind, r = x.dtype, r.float()
    x = x if kind == torch.bfloat16 else x.float()
    saves = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, r, *state))
    h, *last = torch.ops.exgate.slstm_cpu(x, r, *state, reset, forget_gate == "exp", saves)
    return h.to(kind), type(state)(*last[:3], last[3].detach())


@torch.library.custom_op("exgate::slstm_cpu", mutates_args=(), device_types="cpu")
def _forward(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, reset: Tensor | None, exp_f: bool, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output in float32, the last state, and for backward the gates (H, T, B, 4, K) and c, n between blocks."""
    batch, steps, _, heads, size = x.shape
    sizes = (batch, steps, heads, size)
    x, r, reset, *first = native.contiguous(x, r, reset, h, c, n, m)
    y, last = h.new_empty(batch, steps, heads, size), [h.new_empty(batch, heads, size) for _ in range(4)]
    gates = kept = None
    if saves:
        gates = h.new_empty(heads, steps, batch, 4, size)
        kept = h.new_empty(-(-steps // native.BLOCK), 2, batch, heads, size)
    threads = native.threads()
    with native.workspace(native.call("exgate_slstm_space", *sizes, False, threads)) as space:
        state = native.pointers(*first, *last)
        half = x.dtype == torch.bfloat16
        native.call("exgate_slstm_forward", *sizes, half, exp_f, x, r, state, reset, y, gates, kept, space, threads)
    if gates is None or kept is None:
        return y, last[0], last[1], last[2], last[3], h.new_empty(0), h.new_empty(0)
    return y, last[0], last[1], last[2], last[3], gates, kept


@torch.library.custom_op("exgate::slstm_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dy: Tensor, dh: Tensor, dc: Tensor, dn: Tensor,
    r: Tensor, y: Tensor, h: Tensor, gates: Tensor, kept: Tensor, reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch, steps, heads, size = sizes = y.shape
    dy, r, h, reset, *last = native.contiguous(dy, r, h, reset, dh, dc, dn)
    first = [torch.empty_like(tensor) for tensor in last]
    dx, dr = y.new_empty(batch, steps, 4, heads, size), torch.empty_like(r)
    threads = native.threads()
    with native.workspace(native.call("exgate_slstm_space", *sizes, True, threads)) as space:
        states = native.pointers(*last, *first)
        native.call("exgate_slstm_backward", *sizes, dy, r, y, h, gates, kept, reset, states, dx, dr, space, threads)
    return dx, dr, first[0], first[1], first[2]


@_forward.register_fake
def _(x, r, h, c, n, m, reset, exp_f, saves):
    batch, steps, _, heads, size = x.shape
    y, last = h.new_empty(batch, steps, heads, size), [h.new_empty(batch, heads, size) for _ in range(4)]
    if not saves:
        return y, *last, h.new_empty(0), h.new_empty(0)
    return (
        y,
        *last,
        h.new_empty(heads, steps, batch, 4, size),
        h.new_empty(-(-steps // native.BLOCK), 2, batch, heads, size),
    )


@_backward.register_fake
def _(dy, dh, dc, dn, r, y, h, gates, kept, reset):
    batch, steps, heads, size = y.shape
    first = [h.new_empty(batch, heads, size) for _ in range(3)]
    return y.new_empty(batch, steps, 4, heads, size), r.new_empty(r.shape), *first


def _save(ctx, inputs, output):
    x, r, h, _, _, _, reset, _, _ = inputs
    ctx.kind = x.dtype
    ctx.save_for_backward(r, output[0], h, *output[5:], reset)


def _gradients(ctx, dy, dh, dc, dn, *_):
    dx, dr, dh, dc, dn = torch.ops.exgate.slstm_cpu_backward(dy, dh, dc, dn, *ctx.saved_tensors)
    return dx.to(ctx.kind), dr, dh, dc, dn, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
