r"""The kernels of the forward pass of mLSTM: two levels, chunks of L steps in sequence and tiles of steps in them.

With b the sum of log f from the start of a chunk, m_0, C_0 and n_0 the state before it, and s <= t in one chunk,

    m_t = max(b_t + m_0, p_t)             p_t = max over s of b_t - b_s + log i_s
    D_ts = exp(b_t - m_t + a_s) / sqrt(K)     a_s = log i_s - b_s        P = (q k^T) * D
    h_t = (P v + g_t q C_0) / (max(|P 1 + g_t q n_0|, exp(-m_t)) + eps)  g_t = exp(b_t + m_0 - m_t) / sqrt(K)
    C_L = exp(b_L + m_0 - m_L) C_0 + (w k)^T v                           w_s = exp(b_L - m_L + a_s)

`gates` finds b, a and p of all chunks at once; `states` walks over the chunks, each program with a tile of C in its
registers; `outputs` takes all tiles of all chunks at once. A reset cuts all this between two documents: no decay
reaches across. Where the input gate is a sigmoid, m stays 0 and there is no p.

Programs of all heads (batch times H: `heads`) and all tiles are numbered along the first dimension of a grid, the only
one without a bound. Sequences are contiguous (B, T, H, ...), numbers of steps (B, H, T), states of chunks
(B, H, N + 1, ...), the last one being that after the sequence. DOCUMENTS points to (B, T), how many documents have
begun up to a step.
"""

import triton
import triton.language as tl

from exgate.ops.triton_math import log_sigmoid


@triton.jit
def rows_of(base, rows, seen, stride, columns, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """The tile base[rows, columns] with zeros where rows are not `seen`, and beyond WIDTH unless tiles are WHOLE."""
    mask = seen[:, None] if WHOLE else seen[:, None] & (columns[None, :] < WIDTH)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0)


@triton.jit
def matrix_of(base, rows, columns, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """The tile base[rows, columns] of a contiguous matrix (HEIGHT, WIDTH)."""
    places = base + rows[:, None] * WIDTH + columns[None, :]
    if WHOLE:
        return tl.load(places)
    return tl.load(places, mask=(rows[:, None] < HEIGHT) & (columns[None, :] < WIDTH), other=0.0)


@triton.jit
def state_tile(tile, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Rows and columns of a tile of C, their places, which of them exist, and what of n is this program's to write."""
    COLUMNS: tl.constexpr = (V + BV - 1) // BV
    ks, vs = (tile // COLUMNS) * BK + tl.arange(0, BK), (tile % COLUMNS) * BV + tl.arange(0, BV)
    of_n = ks < tl.where(tile % COLUMNS == 0, K, 0)
    return ks, vs, ks[:, None] * V + vs[None, :], (ks[:, None] < K) & (vs[None, :] < V), of_n


@triton.jit
def stabilizer(b, peak, m, same, EXPONENTIAL: tl.constexpr):
    """m_t from m before the chunk, which counts for the steps `same` that are still of its document."""
    if EXPONENTIAL:
        return tl.maximum(tl.where(same, b + m, float("-inf")), peak)
    return tl.zeros_like(b)


@triton.jit
def document_before(DOCUMENTS, b, T, start):
    """The number of the document that is open before the step `start`."""
    return tl.load(DOCUMENTS + b * T + start - 1, mask=start > 0, other=0)


@triton.jit
def _longer(decay, peak, next_decay, next_peak):
    return decay + next_decay, tl.maximum(peak + next_decay, next_peak)


@triton.jit(do_not_specialize=["T", "heads"])
def gates(
    I, F, RESET, B_SUM, A, PEAK, T, heads,
    H: tl.constexpr, L: tl.constexpr, EXPONENTIAL: tl.constexpr, RESETS: tl.constexpr,
):  # fmt: skip
    """b, a and p of one chunk; steps beyond T keep b and add nothing."""
    head, chunk = tl.program_id(0) % heads, tl.program_id(0) // heads
    b, h = (head // H).to(tl.int64), head % H
    t = chunk * L + tl.arange(0, L)
    inside = t < T
    log_f = log_sigmoid(tl.load(F + (b * T + t) * H + h, mask=inside, other=0.0))
    log_i = tl.load(I + (b * T + t) * H + h, mask=inside, other=0.0)
    log_f = tl.where(inside, log_f, 0.0)
    log_i = tl.where(inside, log_i if EXPONENTIAL else log_sigmoid(log_i), float("-inf"))
    decay, peak, own = log_f, log_i, log_f
    if RESETS:  # m before a reset counts as 0
        begins = tl.load(RESET + b * T + t, mask=inside, other=0) != 0
        decay = tl.where(begins, float("-inf"), log_f)
        peak = tl.where(begins, tl.maximum(log_f, log_i), log_i)
        own = tl.where(begins, 0.0, log_f)
    total = tl.cumsum(own, 0)
    row = head.to(tl.int64) * T + t
    tl.store(B_SUM + row, total, mask=inside)
    tl.store(A + row, log_i - total, mask=inside)
    if EXPONENTIAL:
        _, peak = tl.associative_scan((decay, peak), 0, _longer)
        tl.store(PEAK + row, peak, mask=inside)


@triton.jit(do_not_specialize=["T", "chunks", "segment"])
def states(
    K_, V_, B_SUM, A, PEAK, DOCUMENTS, C_FIRST, N_FIRST, M_FIRST, CS, NS, MS, C_KEPT, C_LAST, N_LAST, M_LAST,
    T, chunks, segment,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr,
    EXPONENTIAL: tl.constexpr, RESETS: tl.constexpr, STARTS: tl.constexpr, KEEPS: tl.constexpr, AGAIN: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tiles (BK, BV) of C, and n and m, before every chunk and after the last.

    A segment is `segment` chunks. KEEPS: C before every segment but the first is written to C_KEPT in float32. AGAIN:
    each program takes one segment, from what was kept, and n and m are known.
    """
    head, tile, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    WHOLE_K: tl.constexpr = K % BK == 0
    WHOLE_V: tl.constexpr = V % BV == 0
    b, h = (head // H).to(tl.int64), head % H
    ks, vs, place, own, of_n = state_tile(tile, K, V, BK, BV)
    head64 = head.to(tl.int64)
    begin = part * segment
    end = tl.minimum(begin + segment, chunks) if AGAIN else chunks
    c = tl.zeros((BK, BV), tl.float32)
    n = tl.zeros((BK,), tl.float32)
    m = 0.0
    kept = (chunks - 1) // segment  # how many are kept
    if AGAIN:
        m = tl.load(MS + head64 * (chunks + 1) + begin)
        if part > 0:
            c = tl.load(C_KEPT + (head64 * kept + part - 1) * K * V + place, mask=own, other=0.0)
        elif STARTS:
            c = tl.load(C_FIRST + head64 * K * V + place, mask=own, other=0.0)
    elif STARTS:
        c = tl.load(C_FIRST + head64 * K * V + place, mask=own, other=0.0)
        n = tl.load(N_FIRST + head64 * K + ks, mask=ks < K, other=0.0)
        m = tl.load(M_FIRST + head64)
    for chunk in range(begin, end):
        state = head64 * (chunks + 1) + chunk
        tl.store(CS + state * K * V + place, c.to(CS.dtype.element_ty), mask=own)
        if not AGAIN:
            if KEEPS and chunk > 0 and chunk % segment == 0:
                tl.store(C_KEPT + (head64 * kept + chunk // segment - 1) * K * V + place, c, mask=own)
            tl.store(NS + state * K + ks, n, mask=of_n)
            tl.store(MS + state, m, mask=tile == 0)
        start = chunk * L
        last = tl.minimum(start + L, T) - 1
        b_last = tl.load(B_SUM + head64 * T + last)
        through = b_last + m
        if RESETS:
            document = tl.load(DOCUMENTS + b * T + last)
            through = tl.where(document == document_before(DOCUMENTS, b, T, start), through, float("-inf"))
        if EXPONENTIAL:
            m = tl.maximum(through, tl.load(PEAK + head64 * T + last))
        through = tl.exp(through - m)
        c *= through
        n *= through
        k_base = K_ + ((b * T + start) * H + h) * K
        v_base = V_ + ((b * T + start) * H + h) * V
        for s in range(0, last - start + 1, BS):
            steps = s + tl.arange(0, BS)
            inside = start + steps < T
            w = tl.load(A + head64 * T + start + steps, mask=inside, other=float("-inf")) + (b_last - m)
            if RESETS:
                w = tl.where(
                    tl.load(DOCUMENTS + b * T + start + steps, mask=inside, other=-1) == document, w, float("-inf")
                )
            k = rows_of(k_base, steps, inside, H * K, ks, K, WHOLE_K)
            v = rows_of(v_base, steps, inside, H * V, vs, V, WHOLE_V)
            wk = k.to(tl.float32) * tl.exp(w)[:, None]
            c = tl.dot(tl.trans(wk.to(DOT)), v.to(DOT), c, input_precision=PRECISION)
            n += tl.sum(wk, 0)
    if end == chunks:
        state = head64 * (chunks + 1) + chunks
        tl.store(CS + state * K * V + place, c.to(CS.dtype.element_ty), mask=own)
        if not AGAIN:
            tl.store(NS + state * K + ks, n, mask=of_n)
            tl.store(MS + state, m, mask=tile == 0)
            tl.store(C_LAST + head64 * K * V + place, c, mask=own)
            tl.store(N_LAST + head64 * K + ks, n, mask=of_n)
            tl.store(M_LAST + head64, m, mask=tile == 0)


@triton.jit(do_not_specialize=["T", "chunks", "heads"])
def outputs(
    Q_, K_, V_, B_SUM, A, PEAK, DOCUMENTS, CS, NS, MS, OUT, NQ, T, chunks, heads, eps,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr,
    BI: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
    EXPONENTIAL: tl.constexpr, NORMALIZE: tl.constexpr, RESETS: tl.constexpr, STATES: tl.constexpr,
    SAVES: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """h of BR steps and BW values. STATES: there is something before the first chunk, or more than one chunk."""
    head, tile, part = tl.program_id(0) % heads, tl.program_id(0) // heads, tl.program_id(1)
    WHOLE_K: tl.constexpr = K % BI == 0
    WHOLE_V: tl.constexpr = V % BW == 0
    b, h = (head // H).to(tl.int64), head % H
    head64 = head.to(tl.int64)
    chunk, begin = tile * BR // L, tile * BR % L
    start = chunk * L
    vs = part * BW + tl.arange(0, BW)
    ts = begin + tl.arange(0, BR)  # steps, counted in the chunk
    inside = start + ts < T
    state = head64 * (chunks + 1) + chunk
    row = head64 * T + start
    q_base = Q_ + ((b * T + start) * H + h) * K
    k_base = K_ + ((b * T + start) * H + h) * K
    v_base = V_ + ((b * T + start) * H + h) * V
    b_t = tl.load(B_SUM + row + ts, mask=inside, other=float("-inf"))
    peak = tl.load(PEAK + row + ts, mask=inside, other=0.0) if EXPONENTIAL else b_t
    same = inside
    if RESETS:
        document = tl.load(DOCUMENTS + b * T + start + ts, mask=inside, other=-1)
        same = document == document_before(DOCUMENTS, b, T, start)
    m = tl.load(MS + state)
    m_t = stabilizer(b_t, peak, m, same, EXPONENTIAL)
    ks = tl.arange(0, BI)
    q = rows_of(q_base, ts, inside, H * K, ks, K, WHOLE_K)
    acc = tl.zeros((BR, BW), tl.float32)
    nq = tl.zeros((BR,), tl.float32)
    if STATES:
        for k0 in range(0, K, BI):
            ks = k0 + tl.arange(0, BI)
            if BI < K:
                q = rows_of(q_base, ts, inside, H * K, ks, K, WHOLE_K)
            c = matrix_of(CS + state * K * V, ks, vs, K, V, WHOLE_K and WHOLE_V)
            acc = tl.dot(q.to(DOT), c.to(DOT), acc, input_precision=PRECISION)
            n = tl.load(NS + state * K + ks, mask=ks < K, other=0.0)
            nq += tl.sum(q.to(tl.float32) * n[None, :], 1)
        g = tl.exp(tl.where(same, b_t + m - m_t, float("-inf"))) * ROOT
        acc *= g[:, None]
        nq *= g
    for s in range(0, begin + BR, BC):
        steps = s + tl.arange(0, BC)
        there = start + steps < T
        scores = tl.zeros((BR, BC), tl.float32)
        for k0 in range(0, K, BI):
            ks = k0 + tl.arange(0, BI)
            if BI < K:
                q = rows_of(q_base, ts, inside, H * K, ks, K, WHOLE_K)
            k = rows_of(k_base, steps, there, H * K, ks, K, WHOLE_K)
            scores = tl.dot(q.to(DOT), tl.trans(k.to(DOT)), scores, input_precision=PRECISION)
        a = tl.load(A + row + steps, mask=there, other=float("-inf"))
        seen = ts[:, None] >= steps[None, :]
        if RESETS:
            seen &= document[:, None] == tl.load(DOCUMENTS + b * T + start + steps, mask=there, other=-2)[None, :]
        d = tl.exp(tl.where(seen, (b_t - m_t)[:, None] + a[None, :], float("-inf"))) * ROOT
        scores *= d
        nq += tl.sum(scores, 1)
        v = rows_of(v_base, steps, there, H * V, vs, V, WHOLE_V)
        acc = tl.dot(scores.to(DOT), v.to(DOT), acc, input_precision=PRECISION)
    scale = tl.exp(m_t)
    if NORMALIZE:
        scale = 1.0 / (tl.maximum(tl.abs(nq), tl.exp(-m_t)) + eps)
    places = OUT + ((b * T + start + ts[:, None]) * H + h) * V + vs[None, :]
    tl.store(places, (acc * scale[:, None]).to(OUT.dtype.element_ty), mask=inside[:, None] & (vs[None, :] < V))
    if SAVES:
        tl.store(NQ + row + ts, nq, mask=start + ts < tl.where(part == 0, T, 0))
