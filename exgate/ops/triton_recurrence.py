"""LSTM and sLSTM over time in one kernel each way: the recurrent weights stay on the chip, the loop is inside.

A program has ROWS sequences and TILE units of one head, with their four gates. The product is transposed, weights
first: (4 TILE, SIZE) times h (SIZE, ROWS), so that few sequences fill a tensor core and the four gates of a unit meet
in one thread. The weights are loaded before the loop and kept in shared memory.

    raw = x_t + R h_{t-1}                                      forward, the cells as in `reference.py`
    dh_{t-1} = sum over gates g of R_g^T d raw_g               backward, with the equations of `eager.py`

Backward reads R h_{t-1}, one product for all steps, from where d raw is written. If the head has one program
(SLICES = 1) its h never leaves it. Otherwise each program has a slice of the units: it publishes what it made, h in `y`
or d raw in `draw`, meets the other programs of the head, and reads theirs. Programs meet only inside of one launch;
a launch of a single step needs no meeting, which is also how the interpreter, one program at a time, goes through time.

Tiles of memory are (WARPS, 16, ROWS), units in groups of 16 as a tensor core's rows are: a warp loads what it needs.
"""
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportOperatorIssue=false

import triton
import triton.language as tl

from exgate.ops.triton_math import log_sigmoid, sigmoid, tanh


@triton.jit
def _own(first, batch, head, part, HEADS: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr):
    """A program's sequences (1, ROWS) and (1, 1, ROWS), its units of all heads' (WARPS, 16, 1), which of both there
    are; where the four gates lie (4, 1, 1, 1), and which of all that there is.
    """
    unit = part * TILE + (tl.arange(0, TILE // 16) * 16)[:, None, None] + tl.arange(0, 16)[None, :, None]
    sequence = first + tl.arange(0, ROWS)
    inside = (unit < SIZE) & (sequence[None, None, :] < batch)
    b = sequence.to(tl.int64)
    gate = (tl.arange(0, 4) * (HEADS * SIZE))[:, None, None, None]
    return b[None, :], b[None, None, :], head * SIZE + unit, inside, gate, inside[None] & (gate >= 0)


@triton.jit
def _gates(x, TILE: tl.constexpr, ROWS: tl.constexpr):
    """(4 TILE, ROWS), gates one under the other -> i, f, z, o (TILE, ROWS). No data is moved."""
    iz, fo = tl.split(tl.permute(tl.reshape(x, (2, 2, TILE, ROWS)), (2, 3, 0, 1)))
    i, z = tl.split(iz)
    f, o = tl.split(fo)
    return i, f, z, o


@triton.jit
def _stack(i, f, z, o, TILE: tl.constexpr, ROWS: tl.constexpr):
    """The way back."""
    both = tl.join(tl.join(i, z), tl.join(f, o))
    return tl.reshape(tl.permute(both, (2, 3, 0, 1)), (4 * TILE, ROWS))


@triton.jit
def _exponential(CELL: tl.constexpr, i, f, m):
    """i' and f', of which one is 1 and the other exp(-|i - log f - m|), and log f + m."""
    log_f = (f if CELL == "slstm-exp" else log_sigmoid(f)) + m
    gap = i - log_f
    less = tl.exp(-tl.abs(gap))
    return tl.where(gap > 0, 1.0, less), tl.where(gap > 0, less, 1.0), log_f


@triton.jit
def _meet(arrived, goal):
    """Wait until `goal` arrivals are counted: what any of the programs wrote before is then seen by all of them."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < goal:
        pass
    tl.debug_barrier()


@triton.jit
def _streamed(
    raw, r_at, h_at, unit_out, keep, SIZE: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr
):
    """raw + R h with weights and h from memory, BLOCK columns of R at a time."""
    for start in tl.range(0, SIZE, BLOCK, num_stages=3):
        column, line = start + tl.arange(0, BLOCK)[None, :], start + tl.arange(0, BLOCK)[:, None]
        weights = tl.load(r_at + start, mask=(unit_out < SIZE) & (column < SIZE), other=0.0).to(DOT)
        h = tl.load(h_at + start, mask=(line < SIZE) & keep, other=0.0, cache_modifier=".cg").to(DOT)
        raw = tl.dot(weights, h, raw, input_precision=PRECISION)
    return raw


@triton.jit(do_not_specialize=["batch", "steps", "row", "begin", "end"])
def forward(
    x, r, peephole, reset, h0, c0, n0, m0, y, h1, c1, n1, m1, kept, arrived,
    batch, steps, row, begin, end,
    HEADS: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, SLICES: tl.constexpr, CELL: tl.constexpr, MEETS: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Steps begin..end-1 of the sequences from `row` on.

    x (B, T, 4, H, K), r (4, H, K, K), y (B, T, H, K), states (B, H, K), kept (1 or 3, B, T+1, H, K): c, n, m before
    each step and after the last. Without peephole, reset, kept the pointer is None.
    """
    head, part = tl.program_id(1), tl.program_id(2)
    WARPS: tl.constexpr = TILE // 16
    S: tl.constexpr = HEADS * SIZE
    flat: tl.constexpr = (TILE, ROWS)
    tile: tl.constexpr = (WARPS, 16, ROWS)
    first = row + tl.program_id(0) * ROWS
    b2, b3, unit, inside, gate, four = _own(first, batch, head, part, HEADS, SIZE, TILE, ROWS)
    here = b2 < batch
    state = b3 * S + unit
    x += begin.to(tl.int64) * (4 * S)
    x_at = x + (b3 * steps * (4 * S) + unit)[None] + gate
    y_at = y + begin.to(tl.int64) * S + b3 * steps * S + unit
    if reset is not None:
        reset_at = reset + begin + b2 * steps
        begins_next = tl.load(reset_at, mask=here, other=0)

    c = tl.reshape(tl.load(c0 + state, mask=inside, other=0.0), flat)
    if CELL != "lstm":
        n = tl.reshape(tl.load(n0 + state, mask=inside, other=1.0), flat)
        m = tl.reshape(tl.load(m0 + state, mask=inside, other=0.0), flat)
    if peephole is not None:
        p_at = peephole + head * SIZE + part * TILE + tl.arange(0, TILE)
        p_inside = part * TILE + tl.arange(0, TILE) < SIZE
        p_i = tl.load(p_at, mask=p_inside, other=0.0)[:, None]
        p_f = tl.load(p_at + S, mask=p_inside, other=0.0)[:, None]
        p_o = tl.load(p_at + 2 * S, mask=p_inside, other=0.0)[:, None]
    if kept is not None:
        cell = batch.to(tl.int64) * (steps + 1) * S
        kept_at = kept + begin.to(tl.int64) * S + b3 * (steps + 1) * S + unit
        if begin == 0:
            tl.store(kept_at, tl.reshape(c, tile), mask=inside)
            if CELL != "lstm":
                tl.store(kept_at + cell, tl.reshape(n, tile), mask=inside)
                tl.store(kept_at + 2 * cell, tl.reshape(m, tile), mask=inside)

    out = tl.arange(0, 4 * TILE)[:, None]
    unit_out = part * TILE + out % TILE
    unit_in = tl.arange(0, BLOCK)[None, :]
    r_at = r + ((out // TILE * HEADS + head) * SIZE + unit_out) * SIZE + unit_in
    if BLOCK >= SIZE:
        weights = tl.load(r_at, mask=(unit_out < SIZE) & (unit_in < SIZE), other=0.0).to(DOT)

    if SLICES == 1:
        h = tl.reshape(tl.load(h0 + state, mask=inside, other=0.0), flat).to(y.dtype.element_ty)
        own = h
    else:
        own = tl.zeros(flat, y.dtype.element_ty)
        unit_h = tl.arange(0, BLOCK)[:, None]
        h0_at = h0 + b2 * S + head * SIZE + unit_h
        h_at = y + (b2 * steps + begin - 1) * S + head * SIZE + unit_h
        if BLOCK >= SIZE:
            whole = (unit_h < SIZE) & here
            if begin == 0:
                h = tl.load(h0_at, mask=whole, other=0.0).to(y.dtype.element_ty)
            else:
                h = tl.load(h_at, mask=whole, other=0.0)
        if MEETS:
            arrived += tl.program_id(0) * HEADS + head

    keep = here
    x_next = tl.load(x_at, mask=four, other=0.0)
    for t in range(begin, end):
        raw = tl.reshape(x_next, (4 * TILE, ROWS)).to(tl.float32)
        ahead = tl.where(t + 1 < end, 1, 0)  # steps: the last one reads itself again, and nobody looks at it
        x_at += ahead * (4 * S)
        x_next = tl.load(x_at, mask=four, other=0.0)
        if reset is not None:
            begins = begins_next != 0
            keep = here & (begins_next == 0)
            reset_at += ahead
            begins_next = tl.load(reset_at, mask=here, other=0)
            c = tl.where(begins, 0.0, c)
            if CELL != "lstm":
                n = tl.where(begins, 0.0, n)
                m = tl.where(begins, -float("inf"), m)
        if BLOCK >= SIZE:
            if reset is not None:
                h = tl.where(begins, 0.0, h).to(h.dtype)
            elif MEETS:  # changes nothing: Triton before 3.9 does not compile a load of the step before as an operand
                h = tl.where(here, h, 0.0).to(h.dtype)
            raw = tl.dot(weights, h.to(DOT), raw, input_precision=PRECISION)
        elif t == 0:
            raw = _streamed(raw, r_at, h0_at, unit_out, keep, SIZE, BLOCK, DOT, PRECISION)
        else:
            raw = _streamed(raw, r_at, h_at, unit_out, keep, SIZE, BLOCK, DOT, PRECISION)
        i, f, z, o = _gates(raw, TILE, ROWS)
        if CELL == "lstm":
            if peephole is not None:
                i += p_i * c
                f += p_f * c
            c = sigmoid(f) * c + sigmoid(i) * tanh(z)
            if peephole is not None:
                o += p_o * c
            own = (sigmoid(o) * tanh(c)).to(own.dtype)
        else:
            i_gate, f_gate, log_f = _exponential(CELL, i, f, m)
            c = f_gate * c + i_gate * tanh(z)
            n = f_gate * n + i_gate
            m = tl.maximum(i, log_f)
            own = (sigmoid(o) * c / n).to(own.dtype)
        tl.store(y_at, tl.reshape(own, tile), mask=inside)
        y_at += S
        if kept is not None:
            kept_at += S
            tl.store(kept_at, tl.reshape(c, tile), mask=inside)
            if CELL != "lstm":
                tl.store(kept_at + cell, tl.reshape(n, tile), mask=inside)
                tl.store(kept_at + 2 * cell, tl.reshape(m, tile), mask=inside)
        if SLICES == 1:
            h = own
        else:
            h_at += S
            if MEETS:  # noqa: SIM102  # one is known to the compiler, the other is not
                if t + 1 < end:
                    _meet(arrived, (t + 1 - begin) * SLICES)
                    if BLOCK >= SIZE:
                        h = tl.load(h_at, mask=whole, other=0.0, cache_modifier=".cg")

    tl.store(h1 + state, tl.reshape(own.to(tl.float32), tile), mask=inside)
    tl.store(c1 + state, tl.reshape(c, tile), mask=inside)
    if CELL != "lstm":
        tl.store(n1 + state, tl.reshape(n, tile), mask=inside)
        tl.store(m1 + state, tl.reshape(m, tile), mask=inside)


@triton.jit
def _gathered(
    carried, r_at, d_at, out, unit_in, line, keep, S: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """carried + the sum over gates of R_g^T d raw_g in parts, both from memory, BLOCK units of a gate at a time."""
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    for turn in tl.range(0, 4 * BLOCKS, num_stages=3):
        gate, start = turn // BLOCKS, turn % BLOCKS * BLOCK
        both = (start + out < SIZE) & (unit_in < SIZE)
        weights = tl.load(r_at + (gate * S + start) * SIZE, mask=both, other=0.0).to(DOT)
        some = (start + line < SIZE) & keep
        d = tl.load(d_at + gate * S + start, mask=some, other=0.0, cache_modifier=".cg").to(DOT)
        carried = tl.dot(weights, d, carried, input_precision=PRECISION)
    return carried


@triton.jit(do_not_specialize=["batch", "steps", "row", "begin", "end"])
def backward(
    x, r, peephole, reset, dy, kept, draw, dh1, dc1, dn1, dc0, dn0, dpeephole, arrived,
    batch, steps, row, begin, end,
    HEADS: tl.constexpr, SIZE: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, SLICES: tl.constexpr, PARTS: tl.constexpr, CELL: tl.constexpr, MEETS: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Steps end-1..begin of the sequences from `row` on: draw (B, T, 4, H, K) holds R h_{t-1} and takes d raw.

    dh1, dc1, dn1 are the gradients of the last state, or dc0, dn0 of the steps that follow; dh0 is one more product,
    left to the caller. dpeephole (B / ROWS, 3, H, K) is added to. PARTS warps share the sum over the units of a head
    that has several programs.
    """
    head, part = tl.program_id(1), tl.program_id(2)
    WARPS: tl.constexpr = TILE // 16
    S: tl.constexpr = HEADS * SIZE
    flat: tl.constexpr = (TILE, ROWS)
    tile: tl.constexpr = (WARPS, 16, ROWS)
    first = row + tl.program_id(0) * ROWS
    b2, b3, unit, inside, gate, four = _own(first, batch, head, part, HEADS, SIZE, TILE, ROWS)
    here = b2 < batch
    state = b3 * S + unit
    last = end.to(tl.int64) - 1
    at = (b3 * steps + last) * (4 * S) + unit
    x_at, draw_at = x + at[None] + gate, draw + at[None] + gate
    dy_at = dy + (b3 * steps + last) * S + unit
    kept_at = kept + (b3 * (steps + 1) + last) * S + unit
    cell = batch.to(tl.int64) * (steps + 1) * S
    if reset is not None:
        reset_at = reset + last + b2 * steps
        begins_next = tl.load(reset_at, mask=here, other=0)

    dh = tl.reshape(tl.load(dh1 + state, mask=inside, other=0.0), flat)
    dc = tl.reshape(tl.load(dc1 + state, mask=inside, other=0.0), flat)
    c = tl.reshape(tl.load(kept_at + S, mask=inside, other=0.0), flat)
    if CELL != "lstm":
        dn = tl.reshape(tl.load(dn1 + state, mask=inside, other=0.0), flat)
        n = tl.reshape(tl.load(kept_at + cell + S, mask=inside, other=1.0), flat)  # 1 keeps zeros zero outside
    if peephole is not None:
        p_at = head * SIZE + part * TILE + tl.arange(0, TILE)
        p_inside = part * TILE + tl.arange(0, TILE) < SIZE
        p_i = tl.load(peephole + p_at, mask=p_inside, other=0.0)[:, None]
        p_f = tl.load(peephole + p_at + S, mask=p_inside, other=0.0)[:, None]
        p_o = tl.load(peephole + p_at + 2 * S, mask=p_inside, other=0.0)[:, None]
        dp_i = tl.zeros(flat, tl.float32)
        dp_f = tl.zeros(flat, tl.float32)
        dp_o = tl.zeros(flat, tl.float32)

    GATE: tl.constexpr = HEADS * SIZE * SIZE
    if SLICES == 1:  # (in, gate and out)
        out = tl.arange(0, 4 * TILE)[None, :]
        unit_in = tl.arange(0, TILE)[:, None]
        r_at = r + ((out // TILE * HEADS + head) * SIZE + out % TILE) * SIZE + unit_in
        weights = tl.load(r_at, mask=(out % TILE < SIZE) & (unit_in < SIZE), other=0.0).to(DOT)
    else:  # (part of out, in, out in the part), gate by gate
        SHARE: tl.constexpr = BLOCK // PARTS
        parts = (tl.arange(0, PARTS) * SHARE)[:, None, None]
        out, line = parts + tl.arange(0, SHARE)[None, None, :], parts + tl.arange(0, SHARE)[None, :, None]
        unit_in = part * TILE + tl.arange(0, TILE)[None, :, None]
        r_at = r + (head * SIZE + out) * SIZE + unit_in
        d_at = draw + (b3 * steps + end) * (4 * S) + head * SIZE + line  # the step that follows
        keep = b3 < batch
        if reset is not None:
            keep = keep & (tl.load(reset + b3 * steps + tl.minimum(end, steps - 1), mask=keep, other=0) == 0)
        if BLOCK >= SIZE:
            both = (out < SIZE) & (unit_in < SIZE)
            weights_i = tl.load(r_at, mask=both, other=0.0).to(DOT)
            weights_f = tl.load(r_at + GATE, mask=both, other=0.0).to(DOT)
            weights_z = tl.load(r_at + 2 * GATE, mask=both, other=0.0).to(DOT)
            weights_o = tl.load(r_at + 3 * GATE, mask=both, other=0.0).to(DOT)
            whole = line < SIZE
        if MEETS:
            arrived += tl.program_id(0) * HEADS + head

    x_next = tl.load(x_at, mask=four, other=0.0)
    draw_next = tl.load(draw_at, mask=four, other=0.0)
    dy_next = tl.load(dy_at, mask=inside, other=0.0)
    c_next = tl.load(kept_at, mask=inside, other=0.0)
    if CELL != "lstm":
        n_next = tl.load(kept_at + cell, mask=inside, other=1.0)
        m_next = tl.load(kept_at + 2 * cell, mask=inside, other=0.0)
    for back in range(0, end - begin):
        raw = tl.reshape(x_next, (4 * TILE, ROWS)).to(tl.float32)
        raw += tl.reshape(draw_next, (4 * TILE, ROWS)).to(tl.float32)
        if SLICES > 1:
            if end - back < steps:
                if MEETS:  # noqa: SIM102  # one is known to the compiler, the other is not
                    if back > 0:
                        _meet(arrived, back * SLICES)
                carried = tl.zeros((PARTS, TILE, ROWS), tl.float32)
                if BLOCK >= SIZE:
                    d = tl.load(d_at, mask=whole & keep, other=0.0, cache_modifier=".cg").to(DOT)
                    carried = tl.dot(weights_i, d, carried, input_precision=PRECISION)
                    d = tl.load(d_at + S, mask=whole & keep, other=0.0, cache_modifier=".cg").to(DOT)
                    carried = tl.dot(weights_f, d, carried, input_precision=PRECISION)
                    d = tl.load(d_at + 2 * S, mask=whole & keep, other=0.0, cache_modifier=".cg").to(DOT)
                    carried = tl.dot(weights_z, d, carried, input_precision=PRECISION)
                    d = tl.load(d_at + 3 * S, mask=whole & keep, other=0.0, cache_modifier=".cg").to(DOT)
                    carried = tl.dot(weights_o, d, carried, input_precision=PRECISION)
                else:
                    carried = _gathered(carried, r_at, d_at, out, unit_in, line, keep, S, SIZE, BLOCK, DOT, PRECISION)
                dh = tl.sum(carried, 0)
            d_at -= 4 * S
            if reset is not None:
                keep = (b3 < batch) & (tl.load(reset + b3 * steps + end - 1 - back, mask=b3 < batch, other=0) == 0)
        dh += tl.reshape(dy_next, flat).to(tl.float32)
        c_before = tl.reshape(c_next, flat)
        c_in = c_before
        ahead = tl.where(back + 1 < end - begin, 1, 0)  # steps: the last one reads itself again, and nobody looks at it
        x_at -= ahead * (4 * S)
        dy_at -= ahead * S
        kept_at -= ahead * S
        x_next = tl.load(x_at, mask=four, other=0.0)
        draw_next = tl.load(draw_at - ahead * (4 * S), mask=four, other=0.0)
        dy_next = tl.load(dy_at, mask=inside, other=0.0)
        c_next = tl.load(kept_at, mask=inside, other=0.0)
        if reset is not None:
            begins = begins_next != 0
            reset_at -= ahead
            begins_next = tl.load(reset_at, mask=here, other=0)
            c_in = tl.where(begins, 0.0, c_in)
        i, f, z, o = _gates(raw, TILE, ROWS)
        z = tanh(z)
        if CELL == "lstm":
            if peephole is not None:
                i += p_i * c_in
                f += p_f * c_in
                o += p_o * c
            i, f, o, tanh_c = sigmoid(i), sigmoid(f), sigmoid(o), tanh(c)
            d_o = dh * tanh_c * o * (1.0 - o)
            dc += dh * o * (1.0 - tanh_c * tanh_c)
            if peephole is not None:
                dc += p_o * d_o
                dp_o += d_o * c
            d_i = dc * z * i * (1.0 - i)
            d_f = dc * c_in * f * (1.0 - f)
            d_z = dc * i * (1.0 - z * z)
            dc *= f
            if peephole is not None:
                dc += p_i * d_i + p_f * d_f
                dp_i += d_i * c_in
                dp_f += d_f * c_in
            if reset is not None:
                dc = tl.where(begins, 0.0, dc)
        else:
            n_before, m_in = tl.reshape(n_next, flat), tl.reshape(m_next, flat)
            n_in = n_before
            n_next = tl.load(kept_at + cell, mask=inside, other=1.0)
            m_next = tl.load(kept_at + 2 * cell, mask=inside, other=0.0)
            if reset is not None:
                n_in = tl.where(begins, 0.0, n_in)
                m_in = tl.where(begins, -float("inf"), m_in)
            i_gate, f_gate, _ = _exponential(CELL, i, f, m_in)
            o = sigmoid(o)
            ratio, above = c / n, dh * o / n
            dc += above
            dn -= above * ratio
            d_o = dh * ratio * o * (1.0 - o)
            d_i = (dc * z + dn) * i_gate
            d_f = (dc * c_in + dn * n_in) * f_gate
            if CELL == "slstm":
                d_f *= sigmoid(-f)
            d_z = dc * i_gate * (1.0 - z * z)
            dc *= f_gate
            dn *= f_gate
            n = n_before
        c = c_before
        d = _stack(d_i, d_f, d_z, d_o, TILE, ROWS).to(draw.dtype.element_ty)
        tl.store(draw_at, tl.reshape(d, (4, WARPS, 16, ROWS)), mask=four)
        draw_at -= 4 * S
        if SLICES == 1:
            dh = tl.dot(weights, d.to(DOT), input_precision=PRECISION)
            if reset is not None:
                dh = tl.where(begins, 0.0, dh)

    tl.store(dc0 + state, tl.reshape(dc, tile), mask=inside)
    if CELL != "lstm":
        tl.store(dn0 + state, tl.reshape(dn, tile), mask=inside)
    if peephole is not None:
        dp_at = dpeephole + (first // ROWS) * (3 * S) + p_at
        tl.store(dp_at, tl.load(dp_at, mask=p_inside, other=0.0) + tl.sum(dp_i, 1), mask=p_inside)
        tl.store(dp_at + S, tl.load(dp_at + S, mask=p_inside, other=0.0) + tl.sum(dp_f, 1), mask=p_inside)
        tl.store(dp_at + 2 * S, tl.load(dp_at + 2 * S, mask=p_inside, other=0.0) + tl.sum(dp_o, 1), mask=p_inside)
