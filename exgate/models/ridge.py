"""A linear forecast found in closed form: the simplest that is hard to beat."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exgate.models.lm import materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        steps: L, of the window that is read; horizon: H, of what is forecast.
        strength: of the penalty, as a share of the mean of the diagonal of X'X.
    """

    steps: int
    horizon: int
    strength: float = 1e-3


class Ridge(nn.Module):
    r"""$\hat y - x_L = W (x - x_L)$, the same for all series, x_L being the last value of a window.

    W minimises $\|Y - X W^\top\|^2 + \lambda \|W\|^2$ (`solve`), where $\lambda$ is strength times the mean of the
    diagonal of $X^\top X$. It starts as 0: the last value again and again.
    """

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.horizon, config.steps, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, L, C) without missing values -> forecasts (B, H, C)."""
        last = x[:, -1:]
        return (self.weight @ (x - last)) + last

    @torch.no_grad()
    def solve(self, windows: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Take the best weight for windows (B, L, C) and what follows them (B, H, C), in parts; sums are in float64.

        Windows with a missing value are left out.

        Cost: L (L + H) multiplications for each window and series.
        """
        steps, horizon = self.config.steps, self.config.horizon
        gram = self.weight.new_zeros(steps, steps, dtype=torch.float64)
        cross = self.weight.new_zeros(steps, horizon, dtype=torch.float64)
        for read, follow in windows:
            last = read[:, -1:]
            x, y = ((part - last).mT.flatten(0, 1).double() for part in (read, follow))
            whole = ~(x.isnan().any(1) | y.isnan().any(1))
            x, y = x[whole], y[whole]
            gram += x.mT @ x
            cross += x.mT @ y
        gram.diagonal().add_(self.config.strength * gram.trace().clamp_min(torch.finfo(torch.float64).tiny) / steps)
        self.weight.copy_(torch.linalg.solve(gram, cross).mT)


def build(config: Config, *, device=None, dtype=None) -> Ridge:
    """The model of a config, that repeats the last value until it is solved; on the meta device, its shapes."""
    return materialise(Ridge(config, device="meta", dtype=dtype), device)
