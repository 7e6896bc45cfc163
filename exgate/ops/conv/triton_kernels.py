r"""The kernels of the causal depthwise convolution, of sequences (B, T, D) whose channels lie side by side.

With a_t = b + sum over j of w_j u_{t-j}, where u are the inputs, w_0 is the newest tap and j only counts what is of
t's document, y_t = a_t or SiLU(a_t), and with J taps

    du_s = sum over j of w_j da_{s+j},  dw_j = sum over t of da_t u_{t-j},  da_t = dy_t SiLU'(a_t).

A tile is some steps of some channels. Forward reads the inputs once for each tap, but only the first time from memory.
Backward computes a again, holding the inputs from J - 1 steps before a tile to J - 1 steps after it. The inputs before
the sequence are WINDOW, (B, J - 1, D), and LAST has those before the next one.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
import triton
import triton.language as tl

from exgate.ops.triton_math import sigmoid


@triton.jit
def inputs_from(X, WINDOW, s, columns, stride, T, D: tl.constexpr, J: tl.constexpr, COUNT: tl.constexpr):
    """The inputs of the steps s, s + 1 ... s + COUNT - 1 in float32, zeros where there are none."""
    row, inside, found = s[:, None], columns[None, :] < D, ()
    places, before = X + row * stride + columns[None, :], WINDOW + (row + (J - 1)) * D + columns[None, :]
    for k in tl.static_range(COUNT):
        mask = (row >= -k) & (row < T - k) & inside
        u = tl.load(places + k * stride, mask=mask, other=0.0).to(tl.float32)
        if J > 1:
            u += tl.load(before + k * D, mask=(row < -k) & (row > -J - k) & inside, other=0.0)
        found += (u,)
    return found


@triton.jit
def continues_from(RESET, s, T, COUNT: tl.constexpr):
    """Which of the steps s, s + 1 ... s + COUNT - 1 are of the same document as the one before."""
    found = ()
    for k in tl.static_range(COUNT):
        found += (tl.load(RESET + s + k, mask=(s >= -k) & (s < T - k), other=0) == 0,)
    return found


@triton.jit(do_not_specialize=["T", "tiles"])
def forward(
    X, WEIGHT, BIAS, WINDOW, RESET, Y, LAST, T, tiles, batch_stride, stride,
    D: tl.constexpr, J: tl.constexpr, SILU: tl.constexpr, BIASED: tl.constexpr, RESETS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """y of one tile; the program of a sequence's last tile writes LAST too, KEPT >= J - 1 rows."""
    b, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    X, RESET, WINDOW, LAST = X + b * batch_stride, RESET + b * T, WINDOW + b * (J - 1) * D, LAST + b * (J - 1) * D
    t = (tile * ROWS).to(tl.int64) + tl.arange(0, ROWS)
    a = tl.zeros((ROWS, COLUMNS), tl.float32)
    seen, inputs = t < T, inputs_from(X, WINDOW, t - (J - 1), columns, stride, T, D, J, J)
    if RESETS:
        continues = continues_from(RESET, t - (J - 1), T, J)
    for j in tl.static_range(J):
        if RESETS and j > 0:
            seen = seen & continues[J - j]
        weight = tl.load(WEIGHT + columns * J + (J - 1 - j), mask=inside, other=0.0).to(tl.float32)
        a += weight[None, :] * tl.where(seen[:, None], inputs[J - 1 - j], 0.0)
    if BIASED:
        a += tl.load(BIAS + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    y = a * sigmoid(a) if SILU else a
    tl.store(Y + (b * T + t)[:, None] * D + columns[None, :], y, mask=(t < T)[:, None] & inside[None, :])
    if (J > 1) & (tile == tiles - 1):
        row = tl.arange(0, KEPT)
        s = T.to(tl.int64) - (J - 1) + row
        counts = s < T
        if RESETS:
            after = continues_from(RESET, s + 1, T, J - 1)
            for j in tl.static_range(J - 1):
                counts = counts & after[j]
        u = tl.where(counts[:, None], inputs_from(X, WINDOW, s, columns, stride, T, D, J, 1)[0], 0.0)
        tl.store(LAST + row[:, None] * D + columns[None, :], u, mask=(row < J - 1)[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["T", "programs", "tiles"])
def backward(
    DY, DLAST, X, WEIGHT, BIAS, WINDOW, RESET, DX, DWEIGHT, DBIAS, DWINDOW, T, programs, tiles, batch_stride, stride,
    D: tl.constexpr, J: tl.constexpr, SILU: tl.constexpr, BIASED: tl.constexpr, RESETS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of `tiles` tiles of inputs, the window's among them; the sums for the weights are this program's share.

    DWEIGHT (B programs, J, D) and DBIAS (B programs, D).
    """
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < D
    X, RESET, WINDOW = X + b * batch_stride, RESET + b * T, WINDOW + b * (J - 1) * D
    DY, DX, DLAST, DWINDOW = DY + b * T * D, DX + b * T * D, DLAST + b * (J - 1) * D, DWINDOW + b * (J - 1) * D
    weights = ()
    for j in tl.static_range(J):
        weights += (tl.load(WEIGHT + columns * J + (J - 1 - j), mask=inside, other=0.0).to(tl.float32)[None, :],)
    bias = tl.zeros((1, COLUMNS), tl.float32)
    if BIASED:
        bias += tl.load(BIAS + columns, mask=inside, other=0.0).to(tl.float32)[None, :]
    dbias = tl.zeros((ROWS, COLUMNS), tl.float32)
    dweights = (dbias,) * J
    for tile in range(tiles):
        s = ((program * tiles + tile) * ROWS - (J - 1)).to(tl.int64) + tl.arange(0, ROWS)
        inputs = inputs_from(X, WINDOW, s - (J - 1), columns, stride, T, D, J, 2 * J - 1)
        if RESETS:
            continues = continues_from(RESET, s - (J - 1), T, 2 * J - 1)
        # The gradient of the last window; a step of it counts if no document begins after it.
        row = s - (T - (J - 1))
        du = tl.load(
            DLAST + row[:, None] * D + columns[None, :],
            mask=((row >= 0) & (s < T))[:, None] & inside[None, :],
            other=0.0,
        )
        seen = s < T
        if RESETS:
            for j in tl.static_range(1, J):
                seen = seen & continues[J - 1 + j]
        du = tl.where(seen[:, None], du, 0.0)
        for d in tl.static_range(J):  # what the step s did d steps later
            t = s + d
            da = tl.load(
                DY + t[:, None] * D + columns[None, :], mask=((t >= 0) & (t < T))[:, None] & inside[None, :], other=0.0
            ).to(tl.float32)
            a, seen, sees = bias, t < T, t < T  # `sees`: whether t sees s
            terms = ()
            for j in tl.static_range(J):
                if RESETS and j > 0:
                    seen = seen & continues[J - 1 + d - (j - 1)]
                if j == d:
                    sees = seen
                if SILU or d == 0:
                    terms += (tl.where(seen[:, None], inputs[J - 1 + d - j], 0.0),)
            if SILU:
                for j in tl.static_range(J):
                    a = a + weights[j] * terms[j]
                gate = sigmoid(a)
                da = da * gate * (1.0 + a * (1.0 - gate))
            du += weights[d] * tl.where(sees[:, None], da, 0.0)
            if d == 0:
                dbias += da
                sums = ()
                for j in tl.static_range(J):
                    sums += (dweights[j] + da * terms[j],)
                dweights = sums
        places = s[:, None] * D + columns[None, :]
        tl.store(DX + places, du, mask=((s >= 0) & (s < T))[:, None] & inside[None, :])
        if J > 1:
            tl.store(DWINDOW + (J - 1) * D + places, du, mask=((s < 0) & (s > -J))[:, None] & inside[None, :])
    part = tl.program_id(0).to(tl.int64)
    for j in tl.static_range(J):
        tl.store(DWEIGHT + (part * J + j) * D + columns, tl.sum(dweights[j], 0), mask=inside)
    tl.store(DBIAS + part * D + columns, tl.sum(dbias, 0), mask=inside)
