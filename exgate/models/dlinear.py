"""DLinear (Zeng et al. 2023, arXiv:2205.13504): one linear map over time for the trend, one for the rest."""

from dataclasses import dataclass

from torch import Tensor, nn

from exgate.layers.series import Decomposed, scale
from exgate.models.lm import materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        steps: L, of the window that is read; horizon: H, of what is forecast.
        kernel: of the moving average.
        normalize: each window is standardised, and the forecast scaled back; not published.
    """

    steps: int
    horizon: int
    kernel: int = 25
    normalize: bool = False


class DLinear(nn.Module):
    """`exgate.layers.series.Decomposed`, the same for every series."""

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        self.config = config
        self.linear = Decomposed(config.steps, config.horizon, config.kernel, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        self.linear.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, L, C) without missing values -> forecasts (B, H, C)."""
        if not self.config.normalize:
            return self.linear(x)
        own = scale(x)
        return own.invert(self.linear(own.apply(x)))


def build(config: Config, *, device=None, dtype=None) -> DLinear:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    return materialise(DLinear(config, device="meta", dtype=dtype), device)
