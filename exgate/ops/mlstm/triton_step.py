r"""The kernel of a single step of mLSTM without gradients: one pass over the memory, the norm of the heads included.

With log f = logsigmoid(f), m_t = max(log f + m, log i), f_t = exp(log f + m - m_t), i_t = exp(log i - m_t):

    C_t = f_t C + i_t k v^T    n_t = f_t n + i_t k    h = C_t^T q / (max(|n_t . q|, exp(-m_t)) + eps),

q scaled by 1 / sqrt(K), then y = a(g) (w norm(h) + s u). Where the input gate is a sigmoid, m_t = 0. A program takes
BV columns of one head's memory, BK rows at a time; it can normalise h if these are all the columns.
"""

# pyright: reportArgumentType=false
import triton
import triton.language as tl

from exgate.ops.headnorm.triton_kernels import scaled
from exgate.ops.triton_math import log_sigmoid, tanh


@triton.jit
def step(
    Q_, K_, V_, I, F, C, N, M, RESET, WEIGHT, GATE, U, FACTOR, Y, C_NEXT, N_NEXT, M_NEXT,
    cap, eps, norm_eps, scale,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    EXPONENTIAL: tl.constexpr, NORMALIZE: tl.constexpr, CAPPED: tl.constexpr, EMPTY: tl.constexpr,
    RESETS: tl.constexpr, RMS: tl.constexpr, OFFSET: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """BV columns of one head of one row: h or y of them, and the next state."""
    row, strip = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = strip * BV + tl.arange(0, BV)
    i, f = tl.load(I + row).to(tl.float32), tl.load(F + row).to(tl.float32)
    if CAPPED:
        i, f = cap * tanh(i / cap), cap * tanh(f / cap)
    log_i, log_f = i if EXPONENTIAL else log_sigmoid(i), log_sigmoid(f)
    lost = 0  # the first rows of the state, which count as 0: none, or with a reset all
    if RESETS:
        lost = tl.load(RESET + row // H).to(tl.int32) * K
    before = log_f
    if not EMPTY:
        before += tl.where(lost > 0, 0.0, tl.load(M + row))
    m = tl.maximum(before, log_i) if EXPONENTIAL else tl.zeros_like(before)
    f, i = tl.exp(before - m), tl.exp(log_i - m)
    v = tl.load(V_ + row * V + columns, mask=columns < V, other=0.0).to(tl.float32)
    h, nq = tl.zeros((BK, BV), tl.float32), tl.zeros((BK,), tl.float32)
    for start in range(0, K, BK):
        rows = start + tl.arange(0, BK)
        inside = rows < K
        q = tl.load(Q_ + row * K + rows, mask=inside, other=0.0).to(tl.float32) * scale
        ik = tl.load(K_ + row * K + rows, mask=inside, other=0.0).to(tl.float32) * i
        c, n = ik[:, None] * v[None, :], ik
        places, whole = (row * K + rows[:, None]) * V + columns[None, :], inside[:, None] & (columns[None, :] < V)
        if not EMPTY:
            c += f * tl.load(C + places, mask=whole & (rows >= lost)[:, None], other=0.0)
            n += f * tl.load(N + row * K + rows, mask=inside & (rows >= lost), other=0.0)
        tl.store(C_NEXT + places, c, mask=whole)
        if strip == 0:
            tl.store(N_NEXT + row * K + rows, n, mask=inside)
        h += q[:, None] * c
        nq += q * n
    if strip == 0:
        tl.store(M_NEXT + row, m)
    y = tl.sum(h, 0)
    y = y / (tl.maximum(tl.abs(tl.sum(nq, 0)), tl.exp(-m)) + eps) if NORMALIZE else y * tl.exp(m)
    if WEIGHT is not None:
        at, wide, y = row * V, columns[None, :], y[None, :]
        y = scaled(y, WEIGHT, GATE, U, FACTOR, at, row % H, wide, wide < V, norm_eps, V, RMS, OFFSET, SILU)
        y = tl.reshape(y, (BV,))
    tl.store(Y + row * V + columns, y, mask=columns < V)
