"""What models of time series have in common: a scale of each series' own, and its trend."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROUNDING = 1e-6  # a deviation of less than this share of the mean is that of a constant


class Scale(NamedTuple):
    """How a series was standardised: x = (value - mean) / deviation, each (B, 1, C)."""

    mean: Tensor
    deviation: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """(B, T, C) in the series' own units -> standardised."""
        return (x - self.mean) / self.deviation

    def invert(self, x: Tensor) -> Tensor:
        """(B, T, C) standardised -> in the series' own units."""
        return x * self.deviation + self.mean


def scale(x: Tensor, eps: float = 1e-5) -> Scale:
    r"""Mean and deviation over time of each series of x (B, T, C): RevIN without learnt factors (Kim et al. 2022).

    The deviation is $\sqrt{\sigma^2 + \epsilon}$ with the biased variance; with eps = 0 that of a constant series, 0
    but for rounding, is replaced by 1. Missing values (NaN) are left out; a series without any value has mean 0 and
    deviation 1. No gradient flows through a scale.
    """
    x = x.detach()
    known = ~x.isnan()
    count = known.sum(1, keepdim=True)
    mean = torch.where(known, x, 0).sum(1, keepdim=True) / count.clamp_min(1)
    variance = torch.where(known, x - mean, 0).square().sum(1, keepdim=True) / count.clamp_min(1)
    deviation = (variance + eps).sqrt()
    usable = count > 0 if eps else deviation > ROUNDING * mean.abs()
    return Scale(mean, torch.where(usable, deviation, 1))


def trend(x: Tensor, kernel: int = 25) -> Tensor:
    """The moving average of x (B, T, C) over `kernel` steps, (B, T, C).

    Its ends are those of the series repeated: (kernel - 1) / 2 times on either side, and once more at the end where
    kernel is even (Zeng et al. 2023, arXiv:2205.13504).
    """
    before = (kernel - 1) // 2
    x = F.pad(x.mT, (before, kernel - 1 - before), mode="replicate")
    return F.avg_pool1d(x, kernel, 1).mT


def filled(x: Tensor) -> Tensor:
    """x (B, T, C) with the last known value in place of each missing one; before the first, that; without any, 0."""
    known = ~x.isnan()
    time = torch.arange(x.shape[1], device=x.device)[None, :, None]
    before = torch.where(known, time, -1).cummax(1).values
    first = torch.where(known, time, x.shape[1] - 1).amin(1, keepdim=True)
    return x.gather(1, torch.where(before < 0, first, before)).nan_to_num(0.0)


class Decomposed(nn.Module):
    r"""DLinear (Zeng et al. 2023, arXiv:2205.13504): $y = W_s (x - t) + b_s + W_t t + b_t$ over time, t the trend of x.

    All weights start at 1 / steps, so that y starts as the mean of x.

    Args:
        steps: L, of x; horizon: H, of y.
        kernel: of the moving average.
    """

    def __init__(self, steps: int, horizon: int, kernel: int = 25, *, device=None, dtype=None) -> None:
        super().__init__()
        self.kernel = kernel
        self.seasonal = nn.Linear(steps, horizon, device=device, dtype=dtype)
        self.trend = nn.Linear(steps, horizon, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for linear in (self.seasonal, self.trend):
            linear.reset_parameters()
            nn.init.constant_(linear.weight, 1 / linear.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, H, C): the same map for every series."""
        slow = trend(x, self.kernel)
        return (self.seasonal((x - slow).mT) + self.trend(slow.mT)).mT

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}"
