"""Training a forecaster: steps on random windows, the best weights on a validation block kept, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from exgate.forecast.windows import Rows, Series, Units, evenly
from exgate.layers.series import filled
from exgate.models.lm import parameter_groups
from exgate.models.naive import Naive
from exgate.models.patch_xlstm import PatchXLSTM
from exgate.models.ridge import Ridge

ROWS = 128  # windows that are scored at a time
PART = 4096  # that a closed form sums over at a time


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long and how fast to train.

    Args:
        steps, batch: of training, and windows in each.
        rate: the largest learning rate, after a tenth of the steps; then a cosine to a hundredth of it.
        weight_decay, clip: of AdamW, and the gradient's largest norm.
        average: share that a running average of the weights keeps at each step (less in the first ones); the average is
            what is scored and kept. 0: the weights themselves.
        check: steps between two looks at the validation block; patience: how many without a better one end training.
        rows: windows of the validation block, evenly spaced, at most.
        median: the validation block scores the median alone, not all quantiles: intervals come from elsewhere.
        seed: of the windows.
        units: what windows are in; None: each its own, so that all series weigh alike. `PatchXLSTM` has scales of its
            own, in which its loss counts; its linear forecast is solved in these units.
    """

    steps: int = 1000
    batch: int = 32
    rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0
    check: int = 50
    patience: int = 6
    rows: int = 512
    median: bool = False
    seed: int = 0
    units: Units | None = None


@dataclass(frozen=True, kw_only=True)
class History:
    """What training gave: (step, loss) of each look at the validation block, the best step, and the training losses.

    Step 0 is the start: nothing is learnt yet but what has a closed form.
    """

    validation: list[tuple[int, float]]
    best: int
    training: list[float]


def train(
    model: nn.Module,
    series: Series,
    *,
    steps: int,
    horizon: int,
    validation: int,
    budget: Budget,
    on_step: Callable[[int, float], None] | None = None,
) -> History:
    """Fit a model to windows of series, in place; it ends with the weights that were best on the validation block.

    The weights before the first step are among them.

    Args:
        model: `PatchXLSTM`, or one that maps (B, L, C) to (B, H, C). `Ridge` is solved at once; `Naive` stays as it is.
        steps, horizon: L and H.
        validation: steps at the end of each row that no window of training forecasts; 0: the last weights are kept.
        on_step: called with the step and its loss.
    Raises:
        ValueError: no window fits into the series, or the loss is not finite (the rate is too high).
    """
    places = series.places(steps, horizon, leave=validation)
    if not len(places):
        raise ValueError(_none(series, steps, horizon, validation))
    if isinstance(model, Ridge) and not _solve(model, series, places, validation, budget.units):
        raise ValueError(_none(series, steps, horizon, validation))
    if isinstance(model, PatchXLSTM) and model.base is not None:
        _solve(model.base.ridge, series, places, validation, budget.units)
    if isinstance(model, Naive | Ridge):
        return History(validation=[], best=0, training=[])
    held = series.places(steps, horizon, first=-validation) if validation >= horizon else places[:0]
    held = evenly(held, budget.rows)
    rng = np.random.default_rng(budget.seed)
    optimiser = torch.optim.AdamW(parameter_groups(model, budget.weight_decay), lr=budget.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(step, budget.steps))
    kept, best, looks, losses = None, math.inf, [], []
    averaged = AveragedModel(model, multi_avg_fn=partial(_toward, budget.average))

    def look(step: int) -> None:
        nonlocal kept, best
        of = {"units": budget.units, "median": budget.median}
        looks.append((step, score(averaged.module, series, held, steps, horizon, **of)))
        if looks[-1][1] < best:
            best, kept = looks[-1][1], (step, copy.deepcopy(averaged.module.state_dict()))

    if len(held):
        look(0)  # a linear forecast that was solved may be better than all that is learnt
    for step in range(1, budget.steps + 1):
        model.train()
        rows = series.rows(places[rng.integers(0, len(places), budget.batch)], steps, horizon, units=budget.units)
        value = loss(model, _shortened(rows, model.config.patch, rng) if isinstance(model, PatchXLSTM) else rows)
        if not torch.isfinite(value):
            raise ValueError(f"forecast: the loss is {value.item()} at step {step}. Take a lower learning rate.")
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), budget.clip)
        optimiser.step()
        schedule.step()
        averaged.update_parameters(model)
        losses.append(value.item())
        if on_step is not None:
            on_step(step, losses[-1])
        if len(held) and (step % budget.check == 0 or step == budget.steps):
            look(step)
            learnt, _ = min(looks[1:], key=lambda each: each[1])  # without the start: the first steps may be worse
            if step - learnt >= budget.patience * budget.check:
                break
    model.load_state_dict(averaged.module.state_dict() if kept is None else kept[1])
    return History(validation=looks, best=kept[0] if kept else len(losses), training=losses)


@torch.no_grad()
def score(
    model: nn.Module,
    series: Series,
    places: np.ndarray,
    steps: int,
    horizon: int,
    *,
    units: Units | None = None,
    median: bool = False,
) -> float:
    """The mean loss over the windows at `places`, or that of the median."""
    model.eval()
    total = 0.0
    for rows in series.batches(places, ROWS, steps, horizon, units=units):
        if median and isinstance(model, PatchXLSTM):
            value = _median_error(model, rows)
        else:
            value = loss(model, rows, horizon_only=True)
        total += value.item() * len(rows.read)
    return total / len(places)


def _solve(model: Ridge, series: Series, places: np.ndarray, validation: int, units: Units | None) -> bool:
    """Solve it for the windows at `places` that are whole and end before the last steps; whether there were any."""
    steps, horizon = model.config.steps, model.config.horizon
    ends = np.array([len(values) - validation for values in series.values])
    places = places[(places[:, 1] >= steps) & (places[:, 1] + horizon <= ends[places[:, 0]])]
    batches = series.batches(places, PART, steps, horizon, units=units, dtype=torch.float64)
    if len(places):
        model.solve((filled(rows.read), rows.follow) for rows in batches)
    return bool(len(places))


def _none(series: Series, steps: int, horizon: int, validation: int) -> str:
    longest = max((len(values) for values in series.values), default=0)
    return (
        f"forecast: no window of {steps} + {horizon} steps fits before the last {validation} of any series; the "
        f"longest has {longest}. Forecast fewer steps (h), read fewer (input_size), or hold back less (val_size). Two "
        "values of a window should be known: where most are missing, read more."
    )


def loss(model: nn.Module, rows: Rows, *, horizon_only: bool = False) -> Tensor:
    """The quantile loss of all patches (or those of the horizon); of other models, the absolute error."""
    if not isinstance(model, PatchXLSTM):
        known = ~rows.follow.isnan()
        error = model(filled(rows.read)) - rows.follow.nan_to_num(0.0)
        return error.abs().where(known, 0).sum() / known.sum().clamp_min(1)
    patch, steps = model.config.patch, rows.read.shape[1]
    more = -rows.follow.shape[1] % patch
    whole = torch.cat([rows.read, F.pad(rows.follow, (0, 0, 0, more), value=math.nan)], 1)
    read, targets = whole[:, :-patch].clone(), whole[:, patch:].clone()
    read[:, steps:] = math.nan
    if horizon_only:
        targets[:, : steps - patch] = math.nan
    past, future = rows.known.past, rows.known.future
    known = rows.known._replace(
        past=None if past is None else F.pad(past, (0, 0, 0, read.shape[1] - steps), value=math.nan),
        future=None if future is None else F.pad(future, (0, 0, 0, more), value=math.nan),
    )
    return model.loss(read, targets, known)


def _median_error(model: PatchXLSTM, rows: Rows) -> Tensor:
    """The absolute error of the median over the horizon."""
    middle = min(range(len(model.config.quantiles)), key=lambda place: abs(model.config.quantiles[place] - 0.5))
    answer, _ = model.forecast(rows.read, rows.follow.shape[1], None, rows.known)
    error = answer[..., middle] - rows.follow
    return error.abs().nansum() / (~error.isnan()).sum().clamp_min(1)


def _shortened(rows: Rows, patch: int, rng: np.random.Generator) -> Rows:
    """The windows with a horizon of 1 to all of its patches, drawn at random: near steps count more than far ones."""
    horizon = patch * int(rng.integers(1, math.ceil(rows.follow.shape[1] / patch) + 1))
    future = rows.known.future
    known = rows.known._replace(future=None if future is None else future[:, : rows.read.shape[1] + horizon])
    return rows._replace(follow=rows.follow[:, :horizon], known=known)


def _toward(average: float, mean: Any, weights: Any, steps: Any) -> None:
    """Move the means of all weights toward them, after so many steps."""
    share = min(average, (1 + int(steps)) / (10 + int(steps)))
    for slow, fast in zip(mean, weights, strict=True):
        slow.lerp_(fast, 1 - share)


def _share(step: int, steps: int, warmup: float = 0.1, floor: float = 0.01) -> float:
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step - rising) / max(1, steps - rising))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
