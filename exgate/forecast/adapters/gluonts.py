"""Forecasters in gluonts: its data sets as frames, and a `Predictor` that has a fitted `Forecaster`."""

# gluonts is not in the environment of the type checker.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exgate import files
from exgate.forecast.forecaster import Forecaster
from exgate.forecast.frame import Frame, Index, needed, shown

try:
    from gluonts.model.forecast import QuantileForecast
    from gluonts.model.predictor import Predictor
except ImportError as error:
    raise ImportError(
        "exgate: exgate.forecast.adapters.gluonts needs the package 'gluonts'. Install it: pip install gluonts"
    ) from error

ENTRIES = 256  # that are forecast at a time


def frames(dataset: Iterable[dict[str, Any]], forecaster: Forecaster) -> tuple[Frame, Frame | None]:
    """A data set as what `Forecaster.fit` takes: `forecaster.fit(*frames(dataset, forecaster))`.

    Series are named by their place in the data set. Columns are those of the forecaster, in its order:
    `feat_dynamic_real` are its `futr_exog_list`, `past_feat_dynamic_real` its `hist_exog_list`, and `stat_exog_list`
    are first `feat_static_real`, then `feat_static_cat` (of a fitted one its numbers, and its categories); a category
    below 0 is not known.

    Raises:
        ValueError: an entry lacks a field, its target is not one series, or the frequency is not the forecaster's.
    """
    df, static, _ = _frames(list(dataset), forecaster, 0)
    return df, static


class ExgatePredictor(Predictor):
    """Forecasts of a fitted `Forecaster` for any data set of its frequency; fields as in `frames`.

    >>> predictor = ExgatePredictor(Forecaster(h=24).fit(df))        # doctest: +SKIP
    >>> forecasts = list(predictor.predict(dataset))                 # doctest: +SKIP

    Args:
        forecaster: fitted.
        prediction_length: steps, any number; None: h of the forecaster.
    Raises:
        ValueError: the forecaster was not fitted.
    """

    def __init__(self, forecaster: Forecaster, prediction_length: int | None = None) -> None:
        super().__init__(forecaster.h if prediction_length is None else prediction_length)
        forecaster._fitted()
        self.forecaster = forecaster

    def predict(self, dataset: Iterable[dict[str, Any]], num_samples: int | None = None) -> Iterator[QuantileForecast]:
        """The quantiles that the forecaster has of the steps after each entry, in the order of the data set.

        `num_samples` changes nothing: there are no samples. Missing values are NaN; an entry has at least one value.

        Raises:
            ValueError: an entry has no value, or as said of `frames`.
        """
        entries = iter(dataset)
        while part := list(itertools.islice(entries, ENTRIES)):
            yield from self._forecasts(part)

    def serialize(self, path: Path) -> None:
        """Write it into an existing folder: the forecaster as `Forecaster.save` has it, nothing pickled."""
        super().serialize(path)
        self.forecaster.save(path / "forecaster")
        files.write(path / "exgate.json", json.dumps({"prediction_length": self.prediction_length}) + "\n")

    @classmethod
    def deserialize(cls, path: Path, device: torch.device | str = "cpu") -> ExgatePredictor:
        """Open what `serialize` wrote."""
        text = json.loads((path / "exgate.json").read_text(encoding="utf-8"))
        return cls(Forecaster.load(path / "forecaster", device), text["prediction_length"])

    def _forecasts(self, entries: list[dict[str, Any]]) -> Iterator[QuantileForecast]:
        forecaster, horizon = self.forecaster, self.prediction_length
        levels = forecaster.network.quantiles
        df, static, futr = _frames(entries, forecaster, horizon, forecaster.network.steps)
        answer = forecaster.predict(horizon, df, futr, static_df=static, quantiles=levels)
        names = [f"{forecaster.alias}_ql{level:g}" for level in levels]
        values = answer[names].to_numpy(float).reshape(len(entries), horizon, len(levels))
        for entry, own in zip(entries, values, strict=True):
            yield QuantileForecast(
                own.T, entry["start"] + len(entry["target"]), [f"{level:g}" for level in levels],
                item_id=entry.get("item_id"), info=entry.get("info"),
            )  # fmt: skip


def _frames(
    entries: list[dict[str, Any]], forecaster: Forecaster, horizon: int, read: int | None = None
) -> tuple[Frame, Frame | None, Frame | None]:
    """The frames of entries: what is known (of the last `read` steps), the static one, and what is known ahead."""
    pandas, columns = needed(), forecaster.columns
    known: list[Frame] = []
    ahead: list[Frame] = []
    for place, entry in enumerate(entries):
        target = np.asarray(entry["target"], dtype=float)
        if target.ndim != 1 or not len(target):
            raise ValueError(
                f"gluonts: the target of entry {_name(place, entry)} has shape {target.shape}; it should be one "
                "series (T,) with a value. Give each series an entry of its own."
            )
        count, first = len(target), _first(target, read)
        futr = _rows(place, entry, "feat_dynamic_real", columns.futr, count + horizon)
        hist = _rows(place, entry, "past_feat_dynamic_real", columns.hist, count)
        times = _times(place, entry, first, count + horizon - first, forecaster)
        values = {columns.y: target, **{name: row[:count] for name, row in futr.items()}, **hist}
        values = {name: row[first:] for name, row in values.items()}
        later = {name: row[count:] for name, row in futr.items()}
        key = {columns.unique_id: place}
        known.append(pandas.DataFrame({columns.ds: times[: count - first], **values}).assign(**key))
        ahead.append(pandas.DataFrame({columns.ds: times[count - first :], **later}).assign(**key))
    futr_df = pandas.concat(ahead, ignore_index=True) if columns.futr and horizon else None
    return pandas.concat(known, ignore_index=True), _static(entries, forecaster), futr_df


def _first(target: np.ndarray, read: int | None) -> int:
    """Where the last `read` values begin, or the last that is known."""
    known = np.flatnonzero(~np.isnan(target))
    return 0 if read is None or not len(known) else max(0, min(len(target) - read, int(known[-1])))


def _times(place: int, entry: dict[str, Any], first: int, count: int, forecaster: Forecaster) -> Index:
    """So many times of an entry, as the forecaster has times; where it counts steps, from 0."""
    pandas, start = needed(), entry["start"] + first
    freq = forecaster.freq if forecaster._panel is None else forecaster._panel.freq
    if isinstance(freq, int):
        return pandas.Index(np.arange(count) * freq)
    times = pandas.date_range(start.to_timestamp(), periods=max(2, count), freq=start.freq if freq is None else freq)
    if times[0].to_period(start.freq) != start or times[1].to_period(start.freq) != start + 1:
        raise ValueError(
            f"gluonts: entry {_name(place, entry)} has steps of {start.freqstr!r}, the forecaster of "
            f"{times.freqstr!r}. Fit one for this frequency."
        )
    return times[:count]


def _rows(place: int, entry: dict[str, Any], field: str, names: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    """Covariates (N, T) of an entry by the names of N columns."""
    if not names:
        return {}
    rows = np.asarray(entry.get(field, np.zeros((0, 0))), dtype=float)
    if rows.ndim != 2 or len(rows) != len(names) or rows.shape[1] < count:
        raise ValueError(
            f"gluonts: {field} of entry {_name(place, entry)} has shape {rows.shape}; it should be "
            f"({len(names)}, {count} or more), for {', '.join(names)}, to the end of what is forecast if known ahead."
        )
    return dict(zip(names, rows[:, :count], strict=True))


def _static(entries: list[dict[str, Any]], forecaster: Forecaster) -> Frame | None:
    """One row per entry; categories as text."""
    names = forecaster.columns.stat
    if not names:
        return None
    known = forecaster._known
    for name, values in known.categories.items():
        if values and not any(value.isdecimal() for value in values):
            raise ValueError(
                f"gluonts: the forecaster knows {name!r} as {shown(values[0])}, but feat_static_cat are numbers. Fit "
                "it with frames(dataset, forecaster)."
            )
    rows = []
    for place, entry in enumerate(entries):
        numbers = [float(value) for value in entry.get("feat_static_real", ())]
        codes = [str(int(value)) if value >= 0 else None for value in entry.get("feat_static_cat", ())]
        reals = list(names[: len(numbers)]) if forecaster._panel is None else known.static_numbers
        categories = [name for name in names if name not in reals]
        if len(numbers) != len(reals) or len(codes) != len(categories):
            raise ValueError(
                f"gluonts: entry {_name(place, entry)} has {len(numbers)} feat_static_real and {len(codes)} "
                f"feat_static_cat; they should be {len(reals)} and {len(categories)}, for {', '.join(names)}."
            )
        rows.append({**dict(zip(reals, numbers, strict=True)), **dict(zip(categories, codes, strict=True))})
    return needed().DataFrame(rows).assign(**{forecaster.columns.unique_id: range(len(entries))})


def _name(place: int, entry: dict[str, Any]) -> str:
    return shown(entry["item_id"]) if "item_id" in entry else str(place)
