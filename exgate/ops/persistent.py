"""The kernels of triton_recurrence.py as custom ops: what the Triton backends of LSTM and sLSTM share.

A head whose weights fit the shared memory of one processor is one program for all steps, which waits for no other. A
larger head is cut into slices of units, one program each, that exchange h (backward: d raw) through the L2 cache after
every step, and wait for each other. For that all programs of a launch must run at once: it is cooperative, and more
sequences than fit make several launches. Where not even one tile of sequences fits, or where programs run one by one
as in the interpreter, every step is a launch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exgate.ops import gpu, native
from exgate.ops.autograd import expect, once, received

SCRATCH = 12_288  # bytes of shared memory for moving tiles between layouts
STAGES = 3  # blocks of weights under way where they are streamed


@dataclass(frozen=True)
class Tiles:
    """How a call is cut: a program has `rows` sequences and `tile` units of a head, which takes `slices` programs."""

    tile: int
    rows: int
    slices: int
    block: int  # inputs whose weights are at hand at once: all, or as many as are streamed at a time
    group: int  # sequences per launch
    waits: bool  # whether the programs of a launch can wait for each other, so that it takes all steps

    def warps(self, backward: bool = False) -> int:
        """A warp for 16 of the rows that a product has: units if a head is one program, units of all gates if not.

        Where a slice has long rows of weights all at hand, 8 at the least, but 4 backward for the longest of a large
        tile, which are in several parts: so they spill nothing.
        """
        if self.slices == 1:
            return self.tile // 16
        whole = self.block >= max(256, self.slices * self.tile)
        if backward and whole and self.block >= 512 and self.tile > 16:
            return 4
        return max(self.tile // 4, 8 if whole else 1)


def tiles(batch: int, heads: int, size: int, number: int, device: gpu.Target) -> Tiles:
    """The cut for weights of `number` bytes each: the fewest slices, and no larger tiles than the processors need."""
    width, room = gpu.power_of_two(size), device.shared - SCRATCH
    rows = 16 if device.kind == "hip" else 8  # what a matrix instruction takes at the least
    tile, block = width, width
    if number * width > 384 or number * width * (4 * width + rows) > room:  # more would not fit the registers
        tile = 16
        most = 32 if number > 4 else 64  # as much of it as the registers take
        while tile < most and heads * -(-size // tile) > device.processors and number * 8 * tile * width <= room:
            tile *= 2
        if number > 2 and number * width > 1024:  # float32 goes through registers, and more would be spilt
            block = 64
        while number * (STAGES if block < width else 1) * block * (4 * tile + 2 * rows) > room:
            block //= 2
    slices = -(-size // tile)
    if slices > 1 and tile == 16 and block < 512 and heads * slices * -(-batch // rows) > device.processors:
        rows = 16
    fit = device.processors // (heads * slices)
    # On AMD a barrier leaves the stores of other waves under way: what a program announces might not be there yet.
    waits = slices > 1 and fit > 0 and device.kind != "hip"
    if slices > 1 and not fit and width > 128:  # a launch per step reads each weight once: it need not hold them all
        block = min(block, 128 if number == 2 else 64)
        while block < width and number * STAGES * block * (4 * tile + 2 * rows) > room:
            block //= 2
    return Tiles(tile, rows, slices, block, max(1, fit) * rows if slices > 1 else max(1, batch), waits)


def run(
    cell: str, x: Tensor, r: Tensor, state: tuple[Tensor, ...], peephole: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """y in x's type and the last state. `cell` is "lstm", "slstm" or "slstm-exp"."""
    saves = native.saves(x, r, *state, peephole)
    states = [*state, None, None][:4]
    peephole = None if peephole is None else peephole.float()
    y, *last, _ = torch.ops.exgate.recurrence_triton(x, r, *states, peephole, reset, cell, saves)
    return y, last[: len(state)]


@torch.library.custom_op("exgate::recurrence_triton", mutates_args=())
def _forward(
    x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor | None, m: Tensor | None,
    peephole: Tensor | None, reset: Tensor | None, cell: str, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """y, the last state, and for backward c (n and m) before each step and after the last, (1 or 3, B, T+1, H, K)."""
    from exgate.ops.triton_recurrence import forward

    found = y, *last, kept = _results(x, r, h, c, n, m, peephole, reset, cell, saves)
    x, r, h, *start, peephole, reset = native.contiguous(x, r, h, c, n, m, peephole, reset)
    assert x is not None
    assert r is not None
    r = r.to(x.dtype) if x.shape[1] > 1 else r  # a single step reads the weights once: it converts what it reads
    for grid, numbers, arrived, constants in _launches(x):
        given = start if numbers[3] == 0 else last[1:]
        gpu.launch(
            forward, grid, x, r, peephole, reset, h, *given, y, *last, kept if saves else None, arrived, *numbers,
            CELL=cell, **constants,
        )  # fmt: skip
    return found


@once
@torch.library.custom_op("exgate::recurrence_triton_backward", mutates_args=())
def _backward(
    dy: Tensor, dh: Tensor, dc: Tensor, dn: Tensor, x: Tensor, r: Tensor, y: Tensor, h: Tensor, kept: Tensor,
    peephole: Tensor | None, reset: Tensor | None, cell: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    from exgate.ops.triton_recurrence import backward

    with torch.autocast(x.device.type, enabled=False):
        return _differentiate(backward, dy, dh, dc, dn, x, r, y, h, kept, peephole, reset, cell)


def _differentiate(backward, dy, dh, dc, dn, x, r, y, h, kept, peephole, reset, cell: str):
    batch, steps, _, heads, size = x.shape
    x, dy, dh, *start, peephole, reset = native.contiguous(x, dy, dh, dc, dn, peephole, reset)
    assert x is not None
    weights = r.to(x.dtype).contiguous()
    before = torch.cat([h.to(y.dtype)[:, None], y[:, :-1]], 1)  # h_{t-1}
    if reset is not None:
        before.masked_fill_(reset[..., None, None], 0.0)
    before = before.view(-1, heads, size).transpose(0, 1)  # (H, B T, K)
    draw = torch.empty_like(x)  # R h_{t-1} first
    by_gate = [part.transpose(0, 1) for part in draw.view(-1, 4, heads, size).unbind(1)]
    for part, weight in zip(by_gate, weights, strict=True):
        torch.bmm(before, weight.transpose(1, 2), out=part)

    dc0, dn0 = torch.empty_like(dc), torch.empty_like(dn)
    rows = cut_of(x).rows
    dpeephole = None if peephole is None else h.new_zeros(-(-batch // rows), 3, heads, size)
    for grid, numbers, arrived, constants in reversed(list(_launches(x, backward=True))):
        given = start if numbers[4] == steps else (dc0, dn0)
        gpu.launch(
            backward, grid, x, weights, peephole, reset, dy, kept, draw, dh, *given, dc0, dn0, dpeephole, arrived,
            *numbers, CELL=cell, PARTS=min(constants["TILE"] // 4, constants["BLOCK"] // 16), **constants,
        )  # fmt: skip
    dr = torch.stack([_product(part.transpose(1, 2), before) for part in by_gate])
    dh0 = torch.einsum("bghk,ghkj->bhj", draw[:, 0].float(), weights.float()).contiguous()
    if reset is not None:
        dh0.masked_fill_(reset[:, 0, None, None], 0.0)
    return draw, dr, dh0, dc0, dn0, h.new_empty(0) if dpeephole is None else dpeephole.sum(0)


def cut_of(x: Tensor) -> Tiles:
    """The cut of a call with these gates (B, T, 4, H, K), by their type and where they are."""
    batch, _, _, heads, size = x.shape
    found = gpu.products(x.dtype, x.device)
    number = 2 if x.dtype == torch.bfloat16 else 12 if found["PRECISION"] == "tf32x3" else 4  # in two parts, and whole
    return tiles(batch, heads, size, number, gpu.target(x.device))


def _launches(
    x: Tensor, backward: bool = False
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], Tensor | None, dict[str, Any]]]:
    """Grid, (batch, steps, first sequence, first step, step after the last), counters, compile-time constants."""
    batch, steps, _, heads, size = x.shape
    cut = cut_of(x)
    span = steps if cut.slices == 1 or (cut.waits and not gpu.one_by_one()) else 1
    meets = cut.slices > 1 and span > 1
    constants = {"HEADS": heads, "SIZE": size, "TILE": cut.tile, "ROWS": cut.rows, "BLOCK": cut.block}
    constants |= {"SLICES": cut.slices, "MEETS": meets, "warps": cut.warps(backward), "stages": 1, "together": meets}
    constants |= gpu.products(x.dtype, x.device)
    for row in range(0, batch, cut.group):
        count = -(-min(batch - row, cut.group) // cut.rows)
        for begin in range(0, steps, span):
            arrived = torch.zeros(count * heads, dtype=torch.int32, device=x.device) if meets else None
            yield (count, heads, cut.slices), (batch, steps, row, begin, begin + span), arrived, constants


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A batched product in float32, whatever its operands are."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    mixed = a.is_cuda and not torch.version.hip
    return torch.bmm(a, b, out_dtype=torch.float32) if mixed else torch.bmm(a.float(), b.float())


@_forward.register_fake
def _results(x, r, h, c, n, m, peephole, reset, cell, saves):
    batch, steps, _, heads, size = x.shape
    states = [h.new_empty(0 if state is None else state.shape) for state in (h, c, n, m)]
    kept = h.new_empty((1 if n is None else 3, batch, steps + 1, heads, size) if saves else 0)
    return x.new_empty(batch, steps, heads, size), *states, kept


@_backward.register_fake
def _(dy, dh, dc, dn, x, r, y, h, kept, peephole, reset, cell):
    states = [h.new_empty(gradient.shape) for gradient in (dh, dc, dn)]
    dpeephole = h.new_empty(0 if peephole is None else peephole.shape)
    return x.new_empty(x.shape), h.new_empty(r.shape), *states, dpeephole


def _save(ctx, inputs, output):
    x, r, h, _, n, _, peephole, reset, ctx.cell, _ = inputs
    y, *_, kept = output
    ctx.kind, ctx.gauge = r.dtype, n is not None
    expect(ctx, *output[:4])
    ctx.save_for_backward(x, r, y, h, kept, peephole, reset)


def _gradients(ctx, *gradients):
    saved = ctx.saved_tensors
    found = torch.ops.exgate.recurrence_triton_backward(*received(ctx, *gradients[:4]), *saved, ctx.cell)
    dx, dr, dh, dc, dn, dpeephole = found
    dpeephole = None if saved[5] is None else dpeephole
    return dx, dr.to(ctx.kind), dh, dc, dn if ctx.gauge else None, None, dpeephole, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
