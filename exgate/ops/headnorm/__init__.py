"""Normalisation of each head, scaled, and gated where a gate is given: what follows a cell."""

from torch import Tensor

from exgate.ops.dispatch import choose
from exgate.ops.headnorm import eager, triton

BACKENDS = {"triton": triton, "eager": eager}


def headnorm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None = None,
    *,
    eps: float = 1e-5,
    rms: bool = False,
    offset: bool = False,
    backend: str | None = None,
) -> Tensor:
    r"""Each head of x normalised by its own statistics, the heads laid side by side, scaled and gated.

    $y = \sigma(g) \odot w \odot (x - \mu) / \sqrt{\sigma_x^2 + \epsilon}$ with mean and (biased) variance of each head,
    in float32 (float64 for float64 inputs).

    Args:
        x: (..., H, V); with a weight of one dimension (..., V), a single head.
        weight: (H, V) or (V,).
        gate: (..., H V), raw (a logit); None leaves its factor out.
        eps: added to the variance (the mean square with `rms`).
        rms: divide by the root mean square, without subtracting the mean.
        offset: the factor is 1 + w.
        backend: 'triton' or 'eager'; None takes the first that can.
    Returns:
        (..., H V) in x's type, or in the wider of x's and the gate's.
    Raises:
        ValueError: shapes disagree, or there is no such backend, or it refuses.
    Cost: one pass over x, gate and y; in backward the statistics are computed again.
    """
    dims = weight.dim()
    if dims not in (1, 2) or x.shape[x.dim() - dims :] != weight.shape:
        raise ValueError(
            f"headnorm: weight has shape {tuple(weight.shape)} and x {tuple(x.shape)}; weight should be (H, V) for x "
            "(..., H, V), or (V,) for x (..., V)."
        )
    wanted = (*x.shape[: x.dim() - dims], weight.numel())
    if gate is not None and gate.shape != wanted:
        raise ValueError(f"headnorm: gate has shape {tuple(gate.shape)}; it should be {wanted} = (..., H V).")
    args = (x, weight, gate, eps, rms, offset)
    return choose("headnorm", BACKENDS, backend, *args).run(*args)
