"""Normalisation: over the width, and over each head. Statistics in float32 (float64 for float64 inputs)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate import ops


class RMSNorm(nn.Module):
    r"""$y = x / \sqrt{\mathrm{mean}(x^2) + \epsilon} \cdot w$ over the last dimension (arXiv:1910.07467).

    Args:
        dim: size of the last dimension.
        eps: added to the mean square.
        offset: keep the weight as its distance from one: the factor is 1 + w, and w starts at 0 (else w, from 1).
    """

    def __init__(self, dim: int, *, eps: float = 1e-6, offset: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        self.dim, self.eps, self.offset = dim, eps, offset
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.0 if self.offset else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim) in x's type."""
        return ops.headnorm(x, self.weight, eps=self.eps, rms=True, offset=self.offset)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, offset={self.offset}"


class LayerNorm(nn.Module):
    r"""$y = (x - \mu) / \sqrt{\sigma^2 + \epsilon} \cdot w + b$ over the last dimension (arXiv:1607.06450).

    Args:
        dim: size of the last dimension.
        eps: added to the (biased) variance.
        offset: keep the weight as its distance from one (see `RMSNorm`).
        bias: with the summand b.
    """

    def __init__(
        self, dim: int, *, eps: float = 1e-5, offset: bool = False, bias: bool = False, device=None, dtype=None
    ) -> None:
        super().__init__()
        self.dim, self.eps, self.offset = dim, eps, offset
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.0 if self.offset else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim) in x's type."""
        if self.bias is None:
            return ops.headnorm(x, self.weight, eps=self.eps, offset=self.offset)
        kind = torch.promote_types(x.dtype, torch.float32)
        weight = self.weight.to(kind)
        weight = 1 + weight if self.offset else weight
        return F.layer_norm(x.to(kind), (self.dim,), weight, self.bias.to(kind), self.eps).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, offset={self.offset}, bias={self.bias is not None}"


class HeadNorm(nn.Module):
    """Each head normalised by its own statistics, then the heads laid side by side and scaled: the norm after a cell.

    Args:
        dim: width of all heads together, the size of the weight.
        heads: how many; they divide dim.
        eps: added to the variance (the mean square with `rms`).
        offset: keep the weight as its distance from one (see `RMSNorm`).
        rms: divide by the root mean square, without subtracting the mean.
    Raises:
        ValueError: heads do not divide dim.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        eps: float = 1e-5,
        offset: bool = False,
        rms: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.eps, self.offset, self.rms = dim, heads, eps, offset, rms
        self.size = per_head("HeadNorm", "dim", dim, heads)
        self.weight = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.0 if self.offset else 1.0)

    def forward(self, x: Tensor, **after: Any) -> Tensor:
        """x (..., heads, dim / heads) -> (..., dim). `after`: gate, skip and activation, see `exgate.ops.headnorm`."""
        return ops.headnorm(x, **self.options, **after)

    @property
    def options(self) -> dict[str, Any]:
        """What `exgate.ops.headnorm` takes for this norm, the weight as (heads, dim / heads)."""
        weight = self.weight.view(self.heads, self.size)
        return {"weight": weight, "eps": self.eps, "rms": self.rms, "offset": self.offset}

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, eps={self.eps}, offset={self.offset}, rms={self.rms}"


def per_head(layer: str, name: str, size: int, count: int, counted: str = "heads") -> int:
    """The share of each head (or whatever is counted) in `size`; raise when it is not whole."""
    if count < 1 or size % count:
        raise ValueError(f"{layer}: {name}={size} is not a multiple of {counted}={count}. Change one of them.")
    return size // count
