"""A network of a forecaster: how it is built for a horizon, what it says of any horizon, and how that is calibrated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exgate import hint
from exgate.forecast import online
from exgate.forecast.windows import Rows, Series, Units, evenly, joined
from exgate.layers.series import filled
from exgate.models import dlinear, io, lstm_direct, naive, patch_xlstm, ridge, xlstm_time

NETWORKS: dict[str, tuple[str, Any]] = {  # by file: the name in answers, and the module
    "patch_xlstm": ("PatchXLSTM", patch_xlstm), "xlstm_time": ("XLSTMTime", xlstm_time),
    "lstm_direct": ("LSTM", lstm_direct), "dlinear": ("DLinear", dlinear), "ridge": ("Ridge", ridge),
    "naive": ("Naive", naive),
}  # fmt: skip
# Fields of configs that are set here.
OWN = {"steps", "horizon", "channels", "quantiles", "past", "future", "static", "categories"}
INTERVALS = ("quantiles", "conformal")
FEWEST, ENOUGH, MOST = 10, 40, 2048  # windows that intervals are calibrated on: at least, where there is room, at most
SHORT, LONG = 8, 96  # steps of a patch, where nobody says how many
ROWS = 128  # that are forecast at a time


class Network:
    """One of the networks that forecast, and the levels of its answers.

    Args:
        name: of a file in `exgate.models`.
        quantiles: levels, rising.
        intervals: "quantiles" or "conformal"; None: conformal where the validation block has room, else quantiles.
        options: fields of its config.
    Raises:
        ValueError: there is no such network, or it has no such option or intervals.
    """

    def __init__(
        self, name: str, *, quantiles: Sequence[float], intervals: str | None, options: dict[str, Any]
    ) -> None:
        if name not in NETWORKS:
            raise ValueError(f"Forecaster: {hint.unknown(name, NETWORKS, what='model')}")
        self.name, self.patched = name, name == "patch_xlstm"
        self.label = NETWORKS[name][0]
        self.quantiles, self.options = tuple(float(level) for level in quantiles), dict(options)
        self.intervals = "conformal" if intervals is None and not self.patched else intervals
        if self.intervals not in (None, *INTERVALS) or (self.intervals == "quantiles" and not self.patched):
            raise ValueError(
                f"Forecaster: intervals are {intervals!r}; {name} has "
                + ("'quantiles' and 'conformal'." if self.patched else "'conformal': it forecasts no quantiles.")
            )
        fields = {field.name for field in dataclasses.fields(self.source.Config)} - OWN
        odd = sorted(set(options) - fields)
        if odd:
            raise ValueError(f"Forecaster: {name} has no option {odd[0]!r}; it has {', '.join(sorted(fields))}.")
        patch_xlstm.Config(quantiles=self.quantiles)  # says what is wrong with them
        if not self.quantiles[0] <= 0.5 <= self.quantiles[-1]:
            raise ValueError(
                f"Forecaster: quantiles are {self.quantiles}; the median, 0.5, should be among or between them."
            )
        self.module: Any = None
        self.steps = 0
        self.offsets: np.ndarray | None = None  # (H, Q) in deviations: what is added to a quantile, or to the point,
        self.centred = False  # of which to the point

    @property
    def source(self) -> Any:
        """The module of the network; it is not kept, so that a forecaster can be copied and pickled."""
        return NETWORKS[self.name][1]

    @property
    def exact(self) -> bool:
        """It computes in any type: nothing that it repeats is rounded."""
        return self.name == "naive"

    @property
    def patch(self) -> int:
        """Steps that the network reads at a time."""
        return self.module.config.patch if self.patched else 1

    def build(self, steps: int, horizon: int, sizes: dict[str, Any]) -> nn.Module:
        """A new module that reads about so many steps; patches are short where few steps are read."""
        options = dict(self.options)
        if self.patched:
            patch = options.setdefault("patch", max(1, min(max(horizon, SHORT), LONG, steps // 3)))
            steps = max(1, round(steps / patch)) * patch
            options.setdefault("memory", steps // patch)  # a linear forecast of all that is read, for the whole horizon
            options.setdefault("leads", math.ceil(horizon / patch))
            config = patch_xlstm.Config(**{"quantiles": self.quantiles, **sizes, **options})
        elif self.name == "naive":
            steps = max(steps, options.get("season", 1))
            config = naive.Config(horizon=horizon, **options)
        else:
            channels = {"channels": sizes.get("channels", 1)}
            own = {"xlstm_time": channels, "lstm_direct": channels, "dlinear": {"normalize": True}}.get(self.name, {})
            config = self.source.Config(**{"steps": steps, "horizon": horizon, **own, **options})
        self.module, self.steps = io.build(config), steps
        return self.module

    def calibrate(self, series: Series, horizon: int, validation: int, *, alike: bool = False) -> None:
        """Offsets so that each quantile holds on the validation block, where intervals are conformal.

        The level's own quantile of the errors over windows, at each step of the horizon; errors are in deviations of
        what was read. `alike`: of the median, and on both sides alike; for a network that is learnt anew, has other
        quantiles and does not share the bias of this one.
        """
        self.offsets, self.centred = None, alike
        if self.intervals == "quantiles":
            return
        places = series.places(self.steps, horizon, first=-validation)[: None if validation >= horizon else 0]
        if self.exact:  # it has learnt from none
            places = series.places(self.steps, horizon, first=self.steps)
        places = evenly(places, MOST)
        if len(places) < FEWEST and self.intervals is None:
            return
        if len(places) < FEWEST:
            raise ValueError(
                f"Forecaster: conformal intervals need {FEWEST} windows in the validation block; it has {len(places)}. "
                f"Hold back more steps: val_size={horizon + FEWEST - 1} or more."
            )
        batches = series.batches(places, ROWS, self.steps, horizon)
        errors = [_each(rows.follow[..., None] - self._raw(rows, horizon)) for rows in batches]
        error = torch.cat(errors).double().cpu().numpy()
        if alike:
            error = interpolated(error, self.quantiles, [0.5]) if self.patched else error
            error = np.concatenate([error, -error])
        levels = [_ranked(level, len(error)) for level in self.quantiles]
        each = [
            np.nanquantile(error[..., min(place, error.shape[-1] - 1)], level, 0) for place, level in enumerate(levels)
        ]
        self.offsets = np.stack(each, -1)

    def forecast(
        self, series: Series, horizon: int, readers: list[online.Reader] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """After the last values of each series, in their units: what the network says, (S, H), and quantiles (S, H, Q).

        What it says is its median, or the one forecast that it has, before quantiles were calibrated. `readers` go on.
        """
        ends = [len(values) for values in series.values]
        places = np.stack([np.arange(len(ends)), ends], 1)
        if readers is not None and self.patched:
            raw, units = online.forecast(self.module, readers, series, ends, horizon, self.steps)
        else:
            dtype = torch.float64 if self.exact else torch.float32
            batches = series.batches(places, ROWS, self.steps, horizon, dtype=dtype)
            parts = [(self._raw(rows, horizon), rows.units) for rows in batches]
            raw, units = torch.cat([part for part, _ in parts]), joined([own for _, own in parts])
        answer = _each_units(units).invert(_each(raw).double().cpu().numpy())
        point = interpolated(answer, self.quantiles, [0.5])[..., 0] if self.patched else answer[..., 0]
        if self.offsets is not None:
            steps = np.minimum(np.arange(horizon), len(self.offsets) - 1)  # beyond the trained horizon: the last one's
            answer = point[..., None] if self.centred else answer
            answer = answer + self.offsets[steps] * _each_units(series.rows(places, self.steps, 0).units).spread
        return point, np.sort(answer, -1)

    @torch.inference_mode()
    def _raw(self, rows: Rows, horizon: int) -> Tensor:
        """(B, H, C, Q) or (B, H, C, 1). A module with a horizon of its own reads its forecasts, beyond that."""
        if self.patched:
            return self.module.forecast(rows.read, horizon, None, rows.known)[0]
        read, answers = filled(rows.read), []
        while sum(answer.shape[1] for answer in answers) < horizon:
            answers.append(self.module(read))
            read = torch.cat([read, answers[-1]], 1)[:, -self.steps :]
        return torch.cat(answers, 1)[:, :horizon, :, None]


def _each(answers: Tensor) -> Tensor:
    """(R, H, C, Q) -> (R C, H, Q): each channel as a series of its own."""
    return answers.movedim(2, 1).flatten(0, 1)


def _each_units(units: Units) -> Units:
    """(R, 1, C) -> (R C, 1, 1)."""
    return Units(*(part.reshape(-1, 1, 1) for part in units))


def _ranked(level: float, count: int) -> float:
    """The share below which a new value lies with this probability, of `count` values: the rank is ceil(q (n + 1))."""
    if level < 0.5:
        return 1 - _ranked(1 - level, count)
    return min(1.0, math.ceil(level * (count + 1)) / count)


def interpolated(answers: np.ndarray, levels: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """Quantiles (S, H, W) of other levels, on lines between those there are (S, H, Q).

    Raises:
        ValueError: a level lies outside of those there are.
    """
    low, high = min(levels), max(levels)
    outside = [level for level in wanted if not low - 1e-9 <= level <= high + 1e-9]
    if outside:
        raise ValueError(
            f"Forecaster: the quantile {outside[0]:g} is outside of those that were learnt, {low:g} to {high:g}. "
            "Fit with more: quantiles=(...)."
        )
    place = np.interp(wanted, levels, np.arange(len(levels)))
    lower = np.minimum(place.astype(int), len(levels) - 1)
    upper = np.minimum(lower + 1, len(levels) - 1)
    share = place - lower
    return answers[..., lower] * (1 - share) + answers[..., upper] * share
