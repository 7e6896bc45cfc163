"""A linear forecast found in closed form: the simplest that is hard to beat."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.series import filled
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
        return self.ahead(x.mT, self.config.horizon).mT

    def ahead(self, x: Tensor, steps: int) -> Tensor:
        """Windows (..., L) -> the first `steps` of their forecasts."""
        last = x[..., -1:]
        return (x - last) @ self.weight[:steps].mT + last

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
        penalty = self.config.strength * gram.trace() / steps
        gram.diagonal().add_(penalty.clamp_min(torch.finfo(torch.float64).tiny))  # where x never moves
        self.weight.copy_(torch.linalg.solve(gram, cross).mT)


class Reading(NamedTuple):
    """What `PatchRidge` has read of each series.

    Args:
        values: (R, L), the last ones, with forecasts in place of missing patches; NaN before the first value.
        ahead: (R, H), what it forecast when it last read a patch with a value, or had used up its forecasts.
        used: (R,), how many patches of that lie behind.
    """

    values: Tensor
    ahead: Tensor
    used: Tensor


class PatchRidge(nn.Module):
    r"""A `Ridge` at the end of each patch: the next patch from the L values before it, for any number of patches.

    Where a patch is wholly missing, the forecast is that of the last patch which was not, as far as it goes (H steps);
    then forecasts are read in place of values. Gaps within a patch are read as the value before them.

    Args:
        patch: P; steps: L, a multiple of P; horizon: H, a multiple of P.
    """

    def __init__(self, patch: int, steps: int, horizon: int, *, device=None, dtype=None) -> None:
        super().__init__()
        self.patch = patch
        self.ridge = Ridge(Config(steps=steps, horizon=horizon), device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        self.ridge.reset_parameters()

    def forward(self, x: Tensor, state: Reading | None = None) -> tuple[Tensor, Reading]:
        """Series (R, T), NaN where missing, T a multiple of P -> at each step what is forecast for P steps later."""
        patch, config = self.patch, self.ridge.config
        leads = config.horizon // patch
        if state is None:
            none = x.new_zeros(len(x), config.horizon)
            state = Reading(x.new_full((len(x), config.steps), math.nan), none, torch.zeros_like(none[:, 0]).long())
        count = x.shape[1] // patch
        empty = x.isnan().unflatten(1, (count, patch)).all(2)
        # `used` of each patch: how many of a forecast lie behind it; at `place` it was made, -1 being the state's.
        number = torch.arange(count, device=x.device)
        last = torch.where(empty, -1, number).cummax(1).values
        missing = torch.where(last < 0, state.used[:, None] + number + 1, number - last)
        used = missing % leads
        place = torch.where(number - used < 0, 0, number - used + 1)
        whole = torch.cat([state.values, x], 1)
        gap = F.pad(empty.repeat_interleave(patch, 1), (config.steps, 0)) & (~whole.isnan()).cummax(1).values
        rows = torch.arange(len(x), device=x.device)
        before = state.ahead.unflatten(1, (leads, patch))[rows, state.used]
        far = place[used > 0].unique().tolist()  # few: most forecasts are of the next patch alone
        # What follows a gap reads its forecast and needs another pass; at the end, so does each further forecast.
        begun = F.pad(~empty, (1, 0)).cummax(1).values[:, :-1] | ~state.values.isnan().all(1, keepdim=True)
        made = empty & begun & (((missing - 1) % leads == 0) | (number == 0))
        open_end = (empty & begun)[:, -1] & (used[:, -1] > 0)
        passes = 1 + int((made.sum(1) - open_end.long()).clamp_min(0).max())
        y, windows = x, x
        for _ in range(passes):
            windows = filled(whole[..., None])[:, patch:, 0].unfold(1, config.steps, patch)
            y = self.ridge.ahead(windows, patch)
            for at in far:
                further = self.ridge.ahead(windows[:, at - 1], config.horizon) if at else state.ahead
                here = (place == at) & (used > 0)
                y = torch.where(here[..., None], further.unflatten(1, (leads, patch))[rows[:, None], used], y)
            y = y.flatten(1)
            whole = torch.where(gap, torch.cat([state.values, before, y[:, :-patch]], 1), whole)
        since = (~whole.isnan()).cummax(1).values
        kept = torch.where(since, filled(whole[..., None])[..., 0], math.nan)[:, -config.steps :]
        at = place[:, -1:]
        ahead = self.ridge.ahead(windows[rows, at[:, 0] - 1], config.horizon)
        return y, Reading(kept, torch.where(at > 0, ahead, state.ahead), used[:, -1])


def build(config: Config, *, device=None, dtype=None) -> Ridge:
    """The model of a config, that repeats the last value until it is solved; on the meta device, its shapes."""
    return materialise(Ridge(config, device="meta", dtype=dtype), device)
