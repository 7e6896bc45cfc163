r"""The kernels of the backward pass of mLSTM, in the words of triton_forward.py; m is a constant.

With r_t what the numerator is multiplied by (h = r num), and the denominator's derivative where |nq| is its maximum,

    dnum_t = r_t dh_t        dnq_t = -r_t sign(nq_t) (dh_t . h_t)
    dP = dnum v^T + dnq 1^T  dS = dP * D
    dq = dS k + g (dnum C_0^T + dnq n_0)
    dk = dS^T q + w (v dC_L^T + dn_L)        dv = P^T dnum + (w k) dC_L
    dC_0 = exp(b_L + m_0 - m_L) dC_L + (g q)^T dnum       dn_0 alike with dnq
    d log i_s = k_s . dk_s       d log f_t = C_L . dC_L + n_L . dn_L + sum over t' >= t in the chunk of q . dq - k . dk

`rows` finds r and dnq, `state_gradients` walks back over the chunks, `gradients` takes all tiles of all chunks at once,
for dq, dk and dv one after another (they have no product in common but v dh^T), `gate_gradients` sums up. What the
states were is computed again by `states`, from what was kept. A tile of a gradient that is narrower than K or V
computes all scores for itself; the inner products of the gate gradients come in as many parts.
"""

import triton
import triton.language as tl

from exgate.ops.mlstm.triton_forward import document_before, matrix_of, rows_of, stabilizer, state_tile
from exgate.ops.triton_math import sigmoid


@triton.jit(do_not_specialize=["T", "chunks", "heads"])
def rows(
    DH, OUT, NQ, B_SUM, PEAK, DOCUMENTS, MS, R, DNQ, T, chunks, heads, eps,
    H: tl.constexpr, V: tl.constexpr, L: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr,
    EXPONENTIAL: tl.constexpr, NORMALIZE: tl.constexpr, RESETS: tl.constexpr,
):  # fmt: skip
    """r and dnq of BT steps."""
    head, tile = tl.program_id(0) % heads, tl.program_id(0) // heads
    b, h = (head // H).to(tl.int64), head % H
    head64 = head.to(tl.int64)
    start = tile * BT // L * L
    ts = tile * BT + tl.arange(0, BT)
    inside = ts < T
    b_t = tl.load(B_SUM + head64 * T + ts, mask=inside, other=0.0)
    peak = tl.load(PEAK + head64 * T + ts, mask=inside, other=0.0) if EXPONENTIAL else b_t
    same = inside
    if RESETS:
        document = tl.load(DOCUMENTS + b * T + ts, mask=inside, other=-1)
        same = document == document_before(DOCUMENTS, b, T, start)
    m = tl.load(MS + head64 * (chunks + 1) + tile * BT // L)
    m_t = stabilizer(b_t, peak, m, same, EXPONENTIAL)
    scale = tl.exp(m_t)
    dnq = tl.zeros((BT,), tl.float32)
    if NORMALIZE:
        nq = tl.load(NQ + head64 * T + ts, mask=inside, other=1.0)
        floor = tl.exp(-m_t)
        scale = 1.0 / (tl.maximum(tl.abs(nq), floor) + eps)
        base = (b * T + tile * BT) * H + h
        for v0 in range(0, V, BV):
            vs = v0 + tl.arange(0, BV)
            places = base * V + tl.arange(0, BT)[:, None] * (H * V) + vs[None, :]
            seen = inside[:, None] & (vs[None, :] < V)
            dh = tl.load(DH + places, mask=seen, other=0.0).to(tl.float32)
            dnq -= tl.sum(dh * tl.load(OUT + places, mask=seen, other=0.0).to(tl.float32), 1)
        dnq = tl.where(tl.abs(nq) > floor, tl.where(nq < 0, -dnq, dnq) * scale, 0.0)
    tl.store(R + head64 * T + ts, scale, mask=inside)
    tl.store(DNQ + head64 * T + ts, dnq, mask=inside)


@triton.jit(do_not_specialize=["T", "chunks"])
def state_gradients(
    Q_, DH, B_SUM, PEAK, DOCUMENTS, MS, R, DNQ, CS, NS, DC_LAST, DN_LAST, DCS, DNS, EDGES, DC_FIRST, DN_FIRST,
    T, chunks,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BT: tl.constexpr,
    EXPONENTIAL: tl.constexpr, RESETS: tl.constexpr, ENDS: tl.constexpr, STARTS: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """Tiles of dC and dn after every chunk, and this tile's part of C . dC + n . dn there; then those at the start."""
    head, tile = tl.program_id(0), tl.program_id(1)
    TILES: tl.constexpr = ((V + BV - 1) // BV) * ((K + BK - 1) // BK)
    WHOLE_K: tl.constexpr = K % BK == 0
    WHOLE_V: tl.constexpr = V % BV == 0
    b, h = (head // H).to(tl.int64), head % H
    ks, vs, place, own, of_n = state_tile(tile, K, V, BK, BV)
    head64 = head.to(tl.int64)
    dc = tl.zeros((BK, BV), tl.float32)
    dn = tl.zeros((BK,), tl.float32)
    if ENDS:
        dc = tl.load(DC_LAST + head64 * K * V + place, mask=own, other=0.0)
        dn = tl.load(DN_LAST + head64 * K + ks, mask=ks < K, other=0.0)
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        start = chunk * L
        last = tl.minimum(start + L, T) - 1
        state = head64 * (chunks + 1) + chunk + 1  # after the chunk
        edge = tl.sum(tl.sum(tl.load(CS + state * K * V + place, mask=own, other=0.0).to(tl.float32) * dc, 1), 0)
        edge += tl.sum(tl.load(NS + state * K + ks, mask=of_n, other=0.0) * dn, 0)
        tl.store(EDGES + (head64 * chunks + chunk) * TILES + tile, edge)
        after = head64 * chunks + chunk
        tl.store(DCS + after * K * V + place, dc.to(DCS.dtype.element_ty), mask=own)
        tl.store(DNS + after * K + ks, dn, mask=of_n)
        m = tl.load(MS + state - 1)
        through = tl.load(B_SUM + head64 * T + last) + m
        document = 0
        if RESETS:
            document = document_before(DOCUMENTS, b, T, start)
            whole = tl.load(DOCUMENTS + b * T + last) == document
            through = tl.where(whole, through, float("-inf"))
        through = tl.exp(through - tl.load(MS + state))
        dc *= through
        dn *= through
        q_base = Q_ + ((b * T + start) * H + h) * K
        dh_base = DH + ((b * T + start) * H + h) * V
        for t in range(0, last - start + 1, BT):
            ts = t + tl.arange(0, BT)
            inside = start + ts < T
            row = head64 * T + start + ts
            b_t = tl.load(B_SUM + row, mask=inside, other=0.0)
            peak = tl.load(PEAK + row, mask=inside, other=0.0) if EXPONENTIAL else b_t
            same = inside
            if RESETS:
                same = tl.load(DOCUMENTS + b * T + start + ts, mask=inside, other=-1) == document
            m_t = stabilizer(b_t, peak, m, same, EXPONENTIAL)
            g = tl.exp(tl.where(same, b_t + m - m_t, float("-inf"))) * ROOT
            gq = rows_of(q_base, ts, inside, H * K, ks, K, WHOLE_K).to(tl.float32)
            dn += tl.sum(gq * (g * tl.load(DNQ + row, mask=inside, other=0.0))[:, None], 0)
            gq *= (g * tl.load(R + row, mask=inside, other=0.0))[:, None]
            dh = rows_of(dh_base, ts, inside, H * V, vs, V, WHOLE_V)
            dc = tl.dot(tl.trans(gq.to(DOT)), dh.to(DOT), dc, input_precision=PRECISION)
    if STARTS:
        tl.store(DC_FIRST + head64 * K * V + place, dc, mask=own)
        tl.store(DN_FIRST + head64 * K + ks, dn, mask=of_n)


@triton.jit(do_not_specialize=["T", "chunks", "heads"])
def gradients(
    X, Y, Z, OWN, B_SUM, A, PEAK, DOCUMENTS, MS, R, DNQ, STATES, VECTORS, OUT, PRODUCTS, T, chunks, heads,
    H: tl.constexpr, INNER: tl.constexpr, WIDTH: tl.constexpr, L: tl.constexpr,
    BI: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
    OF: tl.constexpr, EXPONENTIAL: tl.constexpr, RESETS: tl.constexpr, OUTER: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """BW columns of dq, dk or dv of BR steps, as OF says, and of the first two q . dq or k . dk.

    Each is (X Y^T r [+ dnq]) * D times Z, over the steps that see or are seen, plus what the state before the chunk or
    the gradient of that after it says (OUTER: there is one): X, Y, Z are dh, v, k for dq; v, dh, q for dk; k, q, dh for
    dv. Rows are steps t for dq, steps s for the others; the columns of the product are the other kind.
    """
    head, tile, part = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(1)
    OF_Q: tl.constexpr = OF == "q"
    OF_V: tl.constexpr = OF == "v"
    ONE: tl.constexpr = BI >= INNER  # then X stays
    AI: tl.constexpr = BI if BI < 64 else 64  # pyright: ignore  # of the state, which is read once
    WHOLE_I: tl.constexpr = INNER % BI == 0
    WHOLE_A: tl.constexpr = INNER % AI == 0
    WHOLE_W: tl.constexpr = WIDTH % BW == 0
    b, h = (head // H).to(tl.int64), head % H
    head64 = head.to(tl.int64)
    chunk, begin = tile * BR // L, tile * BR % L
    start = chunk * L
    end = tl.minimum(start + L, T) - start
    first = (b * T + start) * H + h
    x_base, y_base, z_base = X + first * INNER, Y + first * INNER, Z + first * WIDTH
    rows = begin + tl.arange(0, BR)
    inside = start + rows < T
    row = head64 * T + start
    ws = part * BW + tl.arange(0, BW)
    state = head64 * (chunks + 1) + chunk
    m = tl.load(MS + state)
    before, of_rows = 0, rows
    if RESETS:
        before = document_before(DOCUMENTS, b, T, start)
        of_rows = tl.load(DOCUMENTS + b * T + start + rows, mask=inside, other=-1)
    if OF_Q:
        log_rows = tl.load(B_SUM + row + rows, mask=inside, other=float("-inf"))
        peak = tl.load(PEAK + row + rows, mask=inside, other=0.0) if EXPONENTIAL else log_rows
        same = of_rows == before if RESETS else inside
        log_rows -= stabilizer(log_rows, peak, m, same, EXPONENTIAL)
        r = tl.load(R + row + rows, mask=inside, other=0.0)[:, None]
        dnq = tl.load(DNQ + row + rows, mask=inside, other=0.0)[:, None]
    else:
        log_rows = tl.load(A + row + rows, mask=inside, other=float("-inf"))
    acc = tl.zeros((BR, BW), tl.float32)
    if OUTER:
        place = state if OF_Q else head64 * chunks + chunk
        matrix = STATES + place * INNER * WIDTH
        for i0 in range(0, INNER, AI):
            inner = i0 + tl.arange(0, AI)
            x = rows_of(x_base, rows, inside, H * INNER, inner, INNER, WHOLE_A)
            if OF_V:
                c = matrix_of(matrix, inner, ws, INNER, WIDTH, WHOLE_A and WHOLE_W)
            else:  # c is (WIDTH, INNER)
                c = tl.trans(matrix_of(matrix, ws, inner, WIDTH, INNER, WHOLE_A and WHOLE_W))
            acc = tl.dot(x.to(DOT), c.to(DOT), acc, input_precision=PRECISION)
        if OF_Q:
            outer = (tl.exp(tl.where(same, log_rows + m, float("-inf"))) * ROOT)[:, None]
            acc *= r
            n = tl.load(VECTORS + place * WIDTH + ws, mask=ws < WIDTH, other=0.0)
            acc += dnq * n[None, :]
        else:
            outer = log_rows + tl.load(B_SUM + row + end - 1) - tl.load(MS + state + 1)
            if RESETS:
                last = tl.load(DOCUMENTS + b * T + start + end - 1)
                outer = tl.where(of_rows == last, outer, float("-inf"))
            outer = tl.exp(outer)[:, None]
            if not OF_V:
                n = tl.load(VECTORS + place * WIDTH + ws, mask=ws < WIDTH, other=0.0)
                acc += n[None, :]
        acc *= outer
    x = rows_of(x_base, rows, inside, H * INNER, tl.arange(0, BI), INNER, WHOLE_I)
    low = 0 if OF_Q else begin // BC * BC
    high = begin + BR if OF_Q else end
    for column in range(low, high, BC):
        columns = column + tl.arange(0, BC)
        there = start + columns < T
        if OF_Q:
            seen = rows[:, None] >= columns[None, :]
        else:
            seen = rows[:, None] <= columns[None, :]
        of_columns = columns
        if RESETS:
            of_columns = tl.load(DOCUMENTS + b * T + start + columns, mask=there, other=-2)
            seen &= of_rows[:, None] == of_columns[None, :]
        if OF_Q:
            log_columns = tl.load(A + row + columns, mask=there, other=float("-inf"))
        else:
            log_columns = tl.load(B_SUM + row + columns, mask=there, other=float("-inf"))
            peak = tl.load(PEAK + row + columns, mask=there, other=0.0) if EXPONENTIAL else log_columns
            same = of_columns == before if RESETS else there
            log_columns -= stabilizer(log_columns, peak, m, same, EXPONENTIAL)
            r = tl.load(R + row + columns, mask=there, other=0.0)[None, :]
            dnq = tl.load(DNQ + row + columns, mask=there, other=0.0)[None, :]
        if ONE:
            y = rows_of(y_base, columns, there, H * INNER, tl.arange(0, BI), INNER, WHOLE_I)
            scores = tl.dot(x.to(DOT), tl.trans(y.to(DOT)), input_precision=PRECISION)
        else:
            scores = tl.zeros((BR, BC), tl.float32)
            for i0 in range(0, INNER, BI):
                inner = i0 + tl.arange(0, BI)
                x = rows_of(x_base, rows, inside, H * INNER, inner, INNER, WHOLE_I)
                y = rows_of(y_base, columns, there, H * INNER, inner, INNER, WHOLE_I)
                scores = tl.dot(x.to(DOT), tl.trans(y.to(DOT)), scores, input_precision=PRECISION)
        scores *= r
        if not OF_V:
            scores += dnq
        d = tl.exp(tl.where(seen, log_rows[:, None] + log_columns[None, :], float("-inf")))
        scores *= d * ROOT
        z = rows_of(z_base, columns, there, H * WIDTH, ws, WIDTH, WHOLE_W)
        acc = tl.dot(scores.to(DOT), z.to(DOT), acc, input_precision=PRECISION)
    if not OF_V:
        own = rows_of(OWN + first * WIDTH, rows, inside, H * WIDTH, ws, WIDTH, WHOLE_W)
        product = tl.sum(acc * own.to(tl.float32), 1)
        tl.store(PRODUCTS + (part * heads + head64) * T + start + rows, product, mask=inside)
    places = OUT + (first + rows[:, None] * H) * WIDTH + ws[None, :]
    tl.store(places, acc.to(OUT.dtype.element_ty), mask=inside[:, None] & (ws[None, :] < WIDTH))


@triton.jit
def _same_document(ends, total, before_ends, before_total):
    """Sums from the right, begun anew at the last step of a document."""
    return ends | before_ends, tl.where(before_ends, before_total, total + before_total)


@triton.jit(do_not_specialize=["T", "chunks", "heads"])
def gate_gradients(
    I, F, RESET, KDK, QDQ, EDGES, DI, DF, T, chunks, heads,
    H: tl.constexpr, L: tl.constexpr, PARTS: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr,
    EXPONENTIAL: tl.constexpr, RESETS: tl.constexpr,
):  # fmt: skip
    """Gradients of the raw gates of one chunk. PARTS of the inner products, TILES of the states (WIDE at least)."""
    head, chunk = tl.program_id(0) % heads, tl.program_id(0) // heads
    b, h = (head // H).to(tl.int64), head % H
    head64 = head.to(tl.int64)
    t = chunk * L + tl.arange(0, L)
    inside = t < T
    kdk = tl.zeros((L,), tl.float32)
    total = tl.zeros((L,), tl.float32)
    for part in range(PARTS):
        row = (part * heads + head64) * T + t
        of_keys = tl.load(KDK + row, mask=inside, other=0.0)
        kdk += of_keys
        total += tl.load(QDQ + row, mask=inside, other=0.0) - of_keys
    if TILES > 0:
        tiles = tl.arange(0, WIDE)
        edge = tl.load(EDGES + (head64 * chunks + chunk) * TILES + tiles, mask=tiles < TILES, other=0.0)
        total = tl.where(t == tl.minimum(chunk * L + L, T) - 1, total + tl.sum(edge, 0), total)
    begins = t >= T
    if RESETS:
        begins = tl.load(RESET + b * T + t, mask=inside, other=0) != 0
        ends = tl.load(RESET + b * T + t + 1, mask=t + 1 < T, other=0) != 0
        _, total = tl.associative_scan((ends, total), 0, _same_document, reverse=True)
    else:
        total = tl.cumsum(total, 0, reverse=True)
    place = (b * T + t) * H + h
    raw_i = tl.load(I + place, mask=inside, other=0.0)
    di = kdk if EXPONENTIAL else kdk * sigmoid(-raw_i)
    df = tl.where(begins, 0.0, total * sigmoid(-tl.load(F + place, mask=inside, other=0.0)))
    tl.store(DI + place, di, mask=inside)
    tl.store(DF + place, df, mask=inside)
