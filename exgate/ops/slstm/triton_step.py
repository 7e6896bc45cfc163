r"""The kernel of a single step of sLSTM without gradients: recurrent product, gates, state, and the norm of the heads.

With g = x_g + R_g h for the gates i f z o, log f = logsigmoid(f) or f, m_t = max(i, log f + m),
c_t = exp(log f + m - m_t) c + exp(i - m_t) tanh(z), n_t alike with 1 in place of tanh(z), h_t = sigmoid(o) c_t / n_t;
then y = w norm(h_t). A program takes BO cells of one head of one row, BI of the cells before at a time; it can
normalise h if these are all the cells.
"""

# pyright: reportArgumentType=false
import triton
import triton.language as tl

from exgate.ops.headnorm.triton_kernels import scaled
from exgate.ops.triton_math import log_sigmoid, sigmoid, tanh


@triton.jit
def step(
    X, R, H_, C, N, M, RESET, WEIGHT, Y, H_NEXT, C_NEXT, N_NEXT, M_NEXT, norm_eps,
    H: tl.constexpr, K: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr, EXP_F: tl.constexpr, EMPTY: tl.constexpr,
    RESETS: tl.constexpr, RMS: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """BO cells of one head of one row: h or y of them, and the next state."""
    row = tl.program_id(0).to(tl.int64)
    b, head = row // H, row % H
    cells = tl.program_id(1) * BO + tl.arange(0, BO)
    inside = cells < K
    lost = 0  # the first cells of the state, which count as empty: none, or with a reset all
    if RESETS:
        lost = tl.load(RESET + b).to(tl.int32) * K
    inputs = X + (b * 4 * H + head) * K + cells
    i = tl.load(inputs, mask=inside, other=0.0).to(tl.float32)
    f = tl.load(inputs + H * K, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(inputs + 2 * H * K, mask=inside, other=0.0).to(tl.float32)
    o = tl.load(inputs + 3 * H * K, mask=inside, other=0.0).to(tl.float32)
    if not EMPTY:
        sum_i = tl.zeros((BO, BI), tl.float32)
        sum_f, sum_z, sum_o = sum_i, sum_i, sum_i
        for start in range(0, K, BI):
            others = start + tl.arange(0, BI)
            h = tl.load(H_ + row * K + others, mask=(others < K) & (others >= lost), other=0.0)[None, :]
            weights = R + (head * K + cells[:, None]) * K + others[None, :]
            whole = inside[:, None] & (others[None, :] < K)
            sum_i += h * tl.load(weights, mask=whole, other=0.0).to(tl.float32)
            sum_f += h * tl.load(weights + H * K * K, mask=whole, other=0.0).to(tl.float32)
            sum_z += h * tl.load(weights + 2 * H * K * K, mask=whole, other=0.0).to(tl.float32)
            sum_o += h * tl.load(weights + 3 * H * K * K, mask=whole, other=0.0).to(tl.float32)
        i, f, z, o = i + tl.sum(sum_i, 1), f + tl.sum(sum_f, 1), z + tl.sum(sum_z, 1), o + tl.sum(sum_o, 1)
    places = row * K + cells
    f = f if EXP_F else log_sigmoid(f)
    m = i
    if not EMPTY:
        f += tl.load(M + places, mask=inside & (cells >= lost), other=float("-inf"))
        m = tl.maximum(i, f)
    i = tl.exp(i - m)
    c, n = i * tanh(z), i
    if not EMPTY:
        f = tl.exp(f - m)
        c += f * tl.load(C + places, mask=inside & (cells >= lost), other=0.0)
        n += f * tl.load(N + places, mask=inside & (cells >= lost), other=0.0)
    h = sigmoid(o) * c / n
    tl.store(H_NEXT + places, h, mask=inside)
    tl.store(C_NEXT + places, c, mask=inside)
    tl.store(N_NEXT + places, n, mask=inside)
    tl.store(M_NEXT + places, m, mask=inside)
    if WEIGHT is not None:
        at, wide, h = row * K, cells[None, :], h[None, :]
        h = scaled(h, WEIGHT, None, None, None, at, head, wide, wide < K, norm_eps, K, RMS, OFFSET, False)
        h = tl.reshape(h, (BO,))
    tl.store(Y + places, h, mask=inside)
