r"""The kernels of the cross-entropy on a GPU: one pass over a chunk of logits (N, V) each way.

With u = c tanh(z / c) (c = 0: u = z), $\mathrm{lse} = \log \sum_j \exp u_j$, nll = lse - u_t; backward
$dz_j = g (\exp(u_j - \mathrm{lse}) - [j = t]) (1 - u_j^2 / c^2)$ takes the place of z. Where a target is ignored both
are 0; where it is not below V nll is NaN.
"""

import triton
import triton.language as tl

from exgate.ops.triton_math import tanh


@triton.jit
def losses(
    Z, TARGETS, NLL, LSE, cap, V: tl.constexpr, CAPPED: tl.constexpr, IGNORED: tl.constexpr, BLOCK: tl.constexpr
):
    """nll and lse of one row, in one pass: sums are rescaled when a larger logit comes."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    most, total = tl.full((), float("-inf"), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        inside = columns < V - start
        u = tl.load(Z + row * V + start + columns, mask=inside, other=0.0).to(tl.float32)
        if CAPPED:
            u = cap * tanh(u / cap)
        u = tl.where(inside, u, float("-inf"))
        before, most = most, tl.maximum(most, tl.max(u, 0))
        total = total * tl.exp(before - most) + tl.exp(u - most)
    lse = most + tl.log(tl.sum(total, 0))
    target = tl.load(TARGETS + row)
    exists = (target >= 0) & (target < V)
    picked = tl.load(Z + row * V + tl.where(exists, target, 0)).to(tl.float32)
    if CAPPED:
        picked = cap * tanh(picked / cap)
    nll = tl.where(exists, lse - picked, float("nan"))
    tl.store(NLL + row, tl.where(target == IGNORED, 0.0, nll))
    tl.store(LSE + row, lse)


@triton.jit
def gradients(Z, TARGETS, LSE, GRAD, cap, V: tl.constexpr, CAPPED: tl.constexpr, IGNORED: tl.constexpr,
              BLOCK: tl.constexpr):  # fmt: skip
    """dz in the place of z: BLOCK columns of one row."""
    row, columns = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(TARGETS + row)
    scale = tl.where(target == IGNORED, 0.0, tl.load(GRAD + row).to(tl.float32))
    places, inside = Z + row * V + columns, columns < V
    u = tl.load(places, mask=inside, other=0.0).to(tl.float32)
    slope = scale
    if CAPPED:
        t = tanh(u / cap)
        u, slope = cap * t, scale * (1.0 - t * t)
    d = tl.exp(u - tl.load(LSE + row)) - tl.where(columns == target, 1.0, 0.0)
    tl.store(places, d * slope, mask=inside)
