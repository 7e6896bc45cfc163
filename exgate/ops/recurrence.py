"""The loop of recurrence.h as custom ops: what the CPU backends of LSTM and sLSTM share."""

from ctypes import Structure, c_int64, c_void_p

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.autograd import expect, once, received

BLOCK = 8  # steps between two states that are kept for backward, as in recurrence.h


class _Call(Structure):
    """`Call` of recurrence.h, where the fields are explained."""

    _fields_ = (
        *((name, c_int64) for name in ("batch", "steps", "heads", "size", "half", "exp_f", "threads")),
        *((name, c_void_p) for name in ("x", "r", "peephole", "reset")),
        *((name, c_void_p * 4) for name in ("start", "end")),
        *((name, c_void_p) for name in ("y", "gates", "kept", "dy", "h", "dx", "dr", "dpeephole", "space")),
    )


def run(
    name: str, x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None, *, exp_f: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """h in x's type and the last state, by the op that `define` has registered."""
    kind, r, peephole = x.dtype, r.float(), None if peephole is None else peephole.float()
    x = x if kind == torch.bfloat16 else x.float()
    saves = native.saves(x, r, *state, peephole)
    h, *found = getattr(torch.ops.exgate, f"{name}_cpu")(x, r, *state, peephole, reset, exp_f, saves)
    return h.to(kind), found[: len(state)]


def define(name: str, states: tuple[str, ...], gradients: int) -> None:
    """Register `exgate::{name}_cpu` and its backward around the kernels `exgate_{name}_*`.

    `states` are named h first; the first `gradients` of them have gradients, and those but h are kept for backward.
    """
    taken = ", ".join(f"Tensor {state}" for state in states)
    given = ", ".join(f"Tensor d{state}" for state in states[:gradients])
    op = torch.library.custom_op(
        f"exgate::{name}_cpu",
        lambda *inputs: _forward(name, gradients - 1, *inputs),
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor x, Tensor r, {taken}, Tensor? peephole, Tensor? reset, bool exp_f, bool saves)"
        f" -> ({', '.join(['Tensor'] * (len(states) + 3))})",
    )
    back = torch.library.custom_op(
        f"exgate::{name}_cpu_backward",
        lambda *inputs: _backward(name, *inputs),
        mutates_args=(),
        device_types="cpu",
        schema=f"(Tensor dy, {given}, Tensor r, Tensor y, Tensor h, Tensor gates, Tensor kept, Tensor? peephole,"
        f" Tensor? reset) -> ({', '.join(['Tensor'] * (gradients + 3))})",
    )

    def save(ctx, inputs, output) -> None:
        x, r, h, *_, peephole, reset, _, _ = inputs
        ctx.kind = x.dtype
        expect(ctx, *output[: 1 + gradients])
        ctx.save_for_backward(r, output[0], h, *output[-2:], peephole, reset)

    def differentiate(ctx, *given: Tensor | None):
        dx, dr, *found, dpeephole = back(*received(ctx, *given), *ctx.saved_tensors)
        found += [None] * (len(states) - gradients)
        return dx.to(ctx.kind), dr, *found, dpeephole.sum(0) if dpeephole.numel() else None, None, None, None

    op.register_fake(lambda *inputs: tuple(_results(gradients - 1, *inputs)))
    op.register_autograd(differentiate, setup_context=save)
    once(back).register_fake(lambda *inputs: tuple(_derivatives(*inputs)))


def _results(kept: int, x: Tensor, r: Tensor, h: Tensor, *rest) -> list[Tensor]:
    """y in float32, the last state, and for backward the gates and the states between blocks."""
    batch, steps, _, heads, size = x.shape
    *others, _, _, _, saves = rest
    found = [h.new_empty(batch, steps, heads, size), *(h.new_empty(h.shape) for _ in (h, *others))]
    if not saves:
        return [*found, h.new_empty(0), h.new_empty(0)]
    gates = h.new_empty(heads, steps, batch, 4, size)
    return [*found, gates, h.new_empty(-(-steps // BLOCK), kept, batch, heads, size)]


def _forward(name: str, kept: int, *inputs) -> tuple[Tensor, ...]:
    x, r, *first, peephole, reset, exp_f, saves = inputs
    found = y, *last, gates, states = _results(kept, *inputs)
    saved = {"gates": gates, "kept": states} if saves else {}
    _call(name, "forward", y, first, last, exp_f, x=x, r=r, peephole=peephole, reset=reset, **saved)
    return tuple(found)


def _derivatives(dy: Tensor, *rest) -> list[Tensor]:
    """dx, dr, the gradients of the first state, and that of the peepholes row by row of the batch."""
    *dlast, r, y, h, _, _, peephole, _ = rest
    batch, steps, heads, size = y.shape
    found = [y.new_empty(batch, steps, 4, heads, size), r.new_empty(r.shape), *(h.new_empty(h.shape) for _ in dlast)]
    return [*found, h.new_empty(0) if peephole is None else h.new_empty(batch, 3, heads, size)]


def _backward(name: str, *inputs) -> tuple[Tensor, ...]:
    dy, *dlast, r, y, h, gates, kept, peephole, reset = inputs
    found = dx, dr, *dfirst, dpeephole = _derivatives(*inputs)
    kept = {"gates": gates, "kept": kept, "dx": dx, "dr": dr, "dpeephole": dpeephole}
    _call(name, "backward", y, dlast, dfirst, r=r, peephole=peephole, reset=reset, dy=dy, h=h, **kept)
    return tuple(found)


def _call(
    name: str, way: str, y: Tensor, start: list[Tensor], end: list[Tensor], exp_f=False, **tensors: Tensor | None
):
    """Call the kernel of that name and way: y gives the sizes, `tensors` are fields of `Call`."""
    start = native.contiguous(*start)  # what is made here lives until the call is over
    tensors = dict(zip(tensors, native.contiguous(*tensors.values()), strict=True))
    x, threads = tensors.get("x"), native.threads()
    half = x is not None and x.dtype == torch.bfloat16
    call = _Call(*y.shape, half, exp_f, threads, y=y.data_ptr())
    for field, states in (("start", start), ("end", end)):
        setattr(call, field, (c_void_p * 4)(*(state.data_ptr() for state in states)))
    for field, tensor in tensors.items():
        setattr(call, field, None if tensor is None else tensor.data_ptr())
    with native.workspace(native.call(f"exgate_{name}_space", bytes(call), way == "backward")) as space:
        call.space = space.data_ptr()
        native.call(f"exgate_{name}_{way}", bytes(call))
