r"""The kernels of the norm of each head: x, the gate g, u, y are contiguous (N, H, V), s and w (or w + 1) are (H, V).

With z = (x - mean) r and r = 1 / sqrt(variance + eps): y = a(g) (w z + s u), and backward, with d = dy a(g),

    dg = dy (w z + s u) a'(g)    du = d s    ds = sum over N of d u    dw = sum over N of d z
    dx = r (dz - mean(dz) - z mean(dz z)),  dz = d w,

without the means of x and of dz where the root mean square normalises. A program takes some rows of one head, as one
tile as wide as the head, so that all is read once.
"""
# pyright: reportOperatorIssue=false

import triton
import triton.language as tl

from exgate.ops.triton_math import sigmoid


@triton.jit
def normalized(x, mask, eps, V: tl.constexpr, RMS: tl.constexpr):
    """z (rows, columns) and r (rows, 1) of x, which is 0 outside of the mask, as z is, even where r is infinite."""
    if not RMS:
        x = tl.where(mask, x - tl.sum(x, 1, keep_dims=True) / V, 0.0)
    r = 1.0 / tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / V + eps)
    return tl.where(mask, x * r, 0.0), r


@triton.jit
def scaled(
    x, WEIGHT, GATE, U, FACTOR, rows, head, columns, mask, eps,
    V: tl.constexpr, RMS: tl.constexpr, OFFSET: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """y of x (rows, columns): what a step of a cell does with its own h, too."""
    z, _ = normalized(x, mask, eps, V, RMS)
    weight = tl.load(WEIGHT + head * V + columns, mask=columns < V, other=0.0).to(tl.float32)
    y = z * (weight + 1.0 if OFFSET else weight)
    if U is not None:
        factor = tl.load(FACTOR + head * V + columns, mask=columns < V, other=0.0).to(tl.float32)
        y += factor * tl.load(U + rows + columns, mask=mask, other=0.0).to(tl.float32)
    if GATE is not None:
        gate = tl.load(GATE + rows + columns, mask=mask, other=0.0).to(tl.float32)
        y *= gate * sigmoid(gate) if SILU else sigmoid(gate)
    return y


@triton.jit(do_not_specialize=["N"])
def forward(
    X, WEIGHT, GATE, U, FACTOR, Y, N, eps,
    H: tl.constexpr, V: tl.constexpr, RMS: tl.constexpr, OFFSET: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y of ROWS rows of one head."""
    head, columns = tl.program_id(1), tl.arange(0, COLUMNS)[None, :]
    n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    rows, mask = (n * H + head) * V, (n < N) & (columns < V)
    x = tl.load(X + rows + columns, mask=mask, other=0.0).to(tl.float32)
    y = scaled(x, WEIGHT, GATE, U, FACTOR, rows, head, columns, mask, eps, V, RMS, OFFSET, SILU)
    tl.store(Y + rows + columns, y, mask=mask)


@triton.jit(do_not_specialize=["N", "programs", "turns"])
def backward(
    DY, X, WEIGHT, GATE, U, FACTOR, DX, DGATE, DU, DWEIGHT, DFACTOR, N, programs, turns, eps,
    H: tl.constexpr, V: tl.constexpr, RMS: tl.constexpr, OFFSET: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A program takes every `programs`-th tile of a head; DWEIGHT and DFACTOR (programs, H, V) are their sums."""
    head, columns = tl.program_id(1), tl.arange(0, COLUMNS)[None, :]
    weight = tl.load(WEIGHT + head * V + columns, mask=columns < V, other=0.0).to(tl.float32)
    weight = weight + 1.0 if OFFSET else weight
    dweight = tl.zeros((ROWS, COLUMNS), tl.float32)
    if U is not None:
        factor = tl.load(FACTOR + head * V + columns, mask=columns < V, other=0.0).to(tl.float32)
        dfactor = dweight
    for turn in range(turns):
        n = (tl.program_id(0) + turn * programs).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        rows, mask = (n * H + head) * V, (n < N) & (columns < V)
        x = tl.load(X + rows + columns, mask=mask, other=0.0).to(tl.float32)
        z, r = normalized(x, mask, eps, V, RMS)
        dy = tl.load(DY + rows + columns, mask=mask, other=0.0).to(tl.float32)
        y = weight * z
        if U is not None:
            u = tl.load(U + rows + columns, mask=mask, other=0.0).to(tl.float32)
            y += factor * u
        if GATE is not None:
            gate = tl.load(GATE + rows + columns, mask=mask, other=0.0).to(tl.float32)
            s = sigmoid(gate)
            slope = s * (1.0 + gate * (1.0 - s)) if SILU else s * (1.0 - s)
            tl.store(DGATE + rows + columns, dy * y * slope, mask=mask)
            dy *= gate * s if SILU else s
        if U is not None:
            tl.store(DU + rows + columns, dy * factor, mask=mask)
            dfactor += dy * u
        dweight += dy * z
        dz = dy * weight
        dx = dz - z * (tl.sum(dz * z, 1, keep_dims=True) / V)
        if not RMS:
            dx -= tl.sum(dz, 1, keep_dims=True) / V
        tl.store(DX + rows + columns, dx * r, mask=mask)
    place = (tl.program_id(0) * H + head) * V + columns
    tl.store(DWEIGHT + place, tl.sum(dweight, 0, keep_dims=True), mask=columns < V)
    if U is not None:
        tl.store(DFACTOR + place, tl.sum(dfactor, 0, keep_dims=True), mask=columns < V)
