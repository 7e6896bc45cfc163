"""Functions of numbers for the kernels, in float32: accurate to a few units in the last place, also near zero."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    e = tl.exp(-tl.abs(x))  # never overflows
    return tl.where(x >= 0, 1.0, e) / (1.0 + e)


@triton.jit
def log_sigmoid(x):
    """min(x, 0) - log(1 + e), e = exp(-|x|), the logarithm by Kahan's trick: gates near 1 need its last digits."""
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.minimum(x, 0.0) - log1p


@triton.jit
def tanh(x):
    """By a polynomial below 0.25, where the exponentials would cancel."""
    a = tl.abs(x)
    e = tl.exp(-2.0 * a)
    s = a * a
    small = a * (1.0 + s * (-0.33333334 + s * (0.13333334 + s * (-0.053968254 + s * 0.021869488))))
    y = tl.where(a < 0.25, small, (1.0 - e) / (1.0 + e))
    return tl.where(x < 0, -y, y)
