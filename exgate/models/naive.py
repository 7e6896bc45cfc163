"""What every forecast is measured against: the last season, or the last value, again and again."""

import math
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        horizon: H, of what is forecast.
        season: steps that are repeated; 1 repeats the last value.
    Raises:
        ValueError: the season is not at least 1.
    """

    horizon: int
    season: int = 1

    def __post_init__(self) -> None:
        if self.season < 1:
            raise ValueError(f"naive: season is {self.season}; it should be at least 1, the last value.")


class Naive(nn.Module):
    """$y_t = x_{t - s}$ with the season s: nothing is learnt."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, L, C) -> forecasts (B, H, C).

        Raises:
            ValueError: windows are shorter than a season.
        """
        season, horizon = self.config.season, self.config.horizon
        if x.shape[1] < season:
            raise ValueError(
                f"Naive: windows have {x.shape[1]} steps, less than a season of {season}. Read longer ones."
            )
        return x[:, -season:].repeat(1, math.ceil(horizon / season), 1)[:, :horizon]


def build(config: Config, *, device=None, dtype=None) -> Naive:
    """The model of a config; it has no weights."""
    return Naive(config)
