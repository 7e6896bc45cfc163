"""Normalisation of each head, scaled, with a skip connection and a gate where they are given: what follows a cell."""

from torch import Tensor

from exgate.ops.dispatch import choose
from exgate.ops.headnorm import eager, triton

BACKENDS = {"triton": triton, "eager": eager}


def headnorm(
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None = None,
    skip: tuple[Tensor, Tensor] | None = None,
    *,
    eps: float = 1e-5,
    rms: bool = False,
    offset: bool = False,
    activation: str = "sigmoid",
    backend: str | None = None,
) -> Tensor:
    r"""Each head of x normalised by its own statistics, the heads laid side by side, scaled, joined and gated.

    $y = a(g) \odot (w \odot (x - \mu) / \sqrt{\sigma_x^2 + \epsilon} + s \odot u)$ with mean and (biased) variance of
    each head, in float32 (float64 for float64 inputs), and a the sigmoid or SiLU.

    Args:
        x: (..., H, V); with a weight of one dimension (..., V), a single head.
        weight: (H, V) or (V,).
        gate: g (..., H V), raw (a logit); None leaves its factor out.
        skip: u (..., H V) and s (H V,); None leaves the summand out.
        eps: added to the variance (the mean square with `rms`).
        rms: divide by the root mean square, without subtracting the mean.
        offset: the factor is 1 + w.
        activation: a, 'sigmoid' or 'silu' ($g \sigma(g)$).
        backend: 'triton' or 'eager'; None takes the first that can.
    Returns:
        (..., H V) in the widest of the types of x, gate and u.
    Raises:
        ValueError: shapes disagree, an option is unknown, or there is no such backend, or it refuses.
    Cost: one pass over x, gate, u and y; in backward the statistics are computed again.
    """
    dims = weight.dim()
    if dims not in (1, 2) or x.shape[x.dim() - dims :] != weight.shape:
        raise ValueError(
            f"headnorm: weight has shape {tuple(weight.shape)} and x {tuple(x.shape)}; weight should be (H, V) for x "
            "(..., H, V), or (V,) for x (..., V)."
        )
    wanted = (*x.shape[: x.dim() - dims], weight.numel())
    u, factor = (None, None) if skip is None else skip
    for name, tensor in (("gate", gate), ("skip[0]", u)):
        if tensor is not None and tensor.shape != wanted:
            raise ValueError(f"headnorm: {name} has shape {tuple(tensor.shape)}; it should be {wanted} = (..., H V).")
    if factor is not None and factor.shape != wanted[-1:]:
        raise ValueError(f"headnorm: skip[1] has shape {tuple(factor.shape)}; it should be {wanted[-1:]} = (H V,).")
    if activation not in ("sigmoid", "silu"):
        raise ValueError(f"headnorm: activation is {activation!r}; it should be 'sigmoid' or 'silu'.")
    args = (x, weight, gate, u, factor, eps, rms, offset, activation == "silu")
    return choose("headnorm", BACKENDS, backend, *args).run(*args)
