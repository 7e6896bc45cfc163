"""How weights start: the published schemes, as functions that fill a tensor in place."""

import functools
import math
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor, nn

Options = ParamSpec("Options")
Fill = Callable[Concatenate[Tensor, Options], Tensor]


def _filled(fill: Fill[Options]) -> Fill[Options]:
    """Nothing on the meta device: there is nothing to fill, and random numbers there take longer than real ones."""

    @functools.wraps(fill)
    def filled(tensor: Tensor, *args: Options.args, **options: Options.kwargs) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *args, **options)

    return filled


normal_ = _filled(nn.init.normal_)


@_filled
def small_(weight: Tensor, dim: int) -> Tensor:
    """Normal with standard deviation sqrt(2 / (5 dim)) (Nguyen and Salazar 2019, arXiv:1910.05895)."""
    return nn.init.normal_(weight, std=math.sqrt(2 / (5 * dim)))


@_filled
def wang_(weight: Tensor, dim: int, blocks: int) -> Tensor:
    """Normal with standard deviation 2 / (blocks sqrt(dim)), for the end of a residual branch (Wang 2021, GPT-J)."""
    return nn.init.normal_(weight, std=2 / (blocks * math.sqrt(dim)))


@_filled
def orthogonal_(weight: Tensor, gain: float = 1.0) -> Tensor:
    """A random matrix with orthogonal rows or columns, times gain (Saxe et al. 2014, arXiv:1312.6120), in any type."""
    wide = torch.empty(weight.shape, device=weight.device, dtype=torch.promote_types(weight.dtype, torch.float32))
    with torch.no_grad():
        return weight.copy_(nn.init.orthogonal_(wide, gain))


@_filled
def ramp_(bias: Tensor, first: float = 3.0, last: float = 6.0) -> Tensor:
    """Evenly spaced from `first` to `last`: each head's own memory span."""
    with torch.no_grad():
        return bias.copy_(torch.linspace(first, last, bias.numel(), device=bias.device, dtype=bias.dtype))


@_filled
def power_law_(bias: Tensor, block: int, blocks: int) -> Tensor:
    r"""Forget-gate bias $5 - 12\,(j/(K-1))^{0.3 + 1.3 r}$ along the last dimension, $r = block/(blocks-1)$.

    From +5 down to -7 inside every head, with fewer fast cells the deeper the block lies. One cell per head (K = 1)
    gets 5; in a model of one block r = 0.
    """
    ratio = block / (blocks - 1) if blocks > 1 else 0.0
    place = torch.linspace(0, 1, bias.shape[-1], device=bias.device, dtype=bias.dtype)
    with torch.no_grad():
        return bias.copy_((5 - 12 * place ** (0.3 + 1.3 * ratio)).expand_as(bias))
