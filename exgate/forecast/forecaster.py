"""Forecasts of the series of a data frame: fit, predict, go on with new observations, test on the past, save."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exgate.forecast import fit as fitting
from exgate.forecast import online
from exgate.forecast.fit import Budget, History
from exgate.forecast.frame import (
    Columns,
    Frame,
    Index,
    Panel,
    ahead,
    aligned,
    as_pandas,
    checked,
    is_polars,
    like,
    panel,
    shown,
    some,
    whole_number,
)
from exgate.forecast.known import Known
from exgate.forecast.network import ENOUGH, FEWEST, Network, interpolated

QUANTILES = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975)
PARTS = ("times", "values", "hist", "futr")  # of a panel, one array for each series
AVERAGE = 0.99  # of the running average of weights, which is what forecasts
SHORTEST = 64  # steps that are read at least, where the series have them


class Forecaster:
    """A network that forecasts every series of a long data frame (`unique_id`, `ds`, `y`), with intervals.

    >>> forecaster = Forecaster(h=24).fit(df)              # doctest: +SKIP
    >>> forecaster.predict(level=[80, 95])                 # doctest: +SKIP

    Frames are pandas' or polars', and answers are of the kind that was given. Names of arguments and of columns are
    those of neuralforecast.

    Args:
        model: "patch_xlstm", "xlstm_time", "lstm_direct" or "dlinear", or what they are measured against, "ridge"
            (linear, in closed form) and "naive" (the last season): a file of `exgate.models`; `options` are fields of
            its config.
        h: steps to forecast; `predict` can be asked for others.
        freq: between two steps, as pandas has it ("h", "15min", "MS"), or a whole number where `ds` are numbers; None:
            what the data have most often.
        input_size: steps that are read before a forecast; None: three times h, and 64 at least, where series are as
            long. Of patches, a multiple of the patch.
        quantiles: levels that are learnt (`patch_xlstm`) or calibrated; others between them are interpolated.
        intervals: "quantiles": as learnt; "conformal": moved so that they hold on the validation block (split
            conformal, each step of the horizon by itself). None: the second where series have room for it.
        hist_exog_list, futr_exog_list: numeric columns known up to now, and known ahead; stat_exog_list: columns of
            `static_df`, numbers or categories. For `patch_xlstm` alone.
        id_col, time_col, target_col: names of the columns.
        max_steps, batch_size, learning_rate, val_check_steps, early_stop_patience_steps, random_seed: of training (see
            `exgate.forecast.fit.Budget`).
        multivariate: all series are read together and mixed (`patch_xlstm`, `xlstm_time`, `lstm_direct`), over the same
            times; without covariates. Else each is read by itself.
        device: where the network is.
        alias: its name in answers; None: the name of its class.
    Raises:
        ValueError: an argument is not as said above.
    """

    def __init__(
        self,
        model: str = "patch_xlstm",
        *,
        h: int,
        freq: Any = None,
        input_size: int | None = None,
        quantiles: Sequence[float] = QUANTILES,
        intervals: str | None = None,
        multivariate: bool = False,
        hist_exog_list: Sequence[str] = (),
        futr_exog_list: Sequence[str] = (),
        stat_exog_list: Sequence[str] = (),
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        max_steps: int = 1000,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        val_check_steps: int = 50,
        early_stop_patience_steps: int = 6,
        random_seed: int = 0,
        device: torch.device | str = "cpu",
        alias: str | None = None,
        **options: Any,
    ) -> None:
        h = whole_number("h", h)
        for name, names in (("hist", hist_exog_list), ("futr", futr_exog_list), ("stat", stat_exog_list)):
            if isinstance(names, str):
                raise ValueError(f"Forecaster: {name}_exog_list is {names!r}; it should be a list: [{names!r}].")
        self.input_size = None if input_size is None else whole_number("input_size", input_size)
        self.h, self.freq, self.device = h, freq, torch.device(device)
        self.columns = Columns(
            unique_id=id_col, ds=time_col, y=target_col, hist=tuple(hist_exog_list), futr=tuple(futr_exog_list),
            stat=tuple(stat_exog_list),
        )  # fmt: skip
        self.budget = Budget(
            steps=whole_number("max_steps", max_steps, 0), batch=whole_number("batch_size", batch_size),
            check=whole_number("val_check_steps", val_check_steps),
            patience=whole_number("early_stop_patience_steps", early_stop_patience_steps),
            rate=learning_rate, seed=random_seed, average=AVERAGE,
        )  # fmt: skip
        self.network = Network(model, quantiles=tuple(quantiles), intervals=intervals, options=options)
        if self.columns.hist + self.columns.futr + self.columns.stat and not self.network.patched:
            raise ValueError(f"Forecaster: {model} has no covariates; patch_xlstm has.")
        self.multivariate = multivariate
        if multivariate and self.columns.hist + self.columns.futr + self.columns.stat:
            raise ValueError(
                "Forecaster: covariates are of each series, and with multivariate=True all are read as one. Leave one "
                "of them out; a covariate that is forecast, too, can be a series."
            )
        self.alias = self.network.label if alias is None else alias
        self.history: History | None = None
        self._known = Known(columns=self.columns)
        self._panel: Panel | None = None
        self._static: Frame | None = None
        self._readers: list[online.Reader] = []
        self._polars = False

    def fit(
        self,
        df: Any,
        static_df: Any = None,
        *,
        val_size: int | None = None,
        on_step: Callable[[int, float], None] | None = None,
    ) -> Forecaster:
        """Learn from a frame; returns this forecaster.

        Args:
            df: long, with the columns that were named.
            static_df: one row per series, with `stat_exog_list`.
            val_size: steps at the end of each series on which the best weights are chosen and intervals calibrated, of
                a network that has not learnt from them. Where that is more than a tenth of the longest series, it is
                learnt anew from everything, for as many steps as were best. None: two horizons where the longest series
                has ten, else one, else none, or as many as calibration needs.
            on_step: called with the step and its loss; from 1 again, where it is learnt anew.
        Raises:
            ValueError: the data are not as they should be; each reason is said with what to do.
        """
        data = self._laid(df, self.freq)
        static, known = None if static_df is None else as_pandas(static_df), Known(columns=self.columns)
        known.learn(data, static)
        longest = max(len(values) for values in data.values)
        validation = self._held_back(longest) if val_size is None else val_size
        if validation and not self.h <= validation < longest:
            raise ValueError(
                f"Forecaster: val_size is {validation}; it should be 0, or from h={self.h} to less than the longest "
                f"series, which has {longest} steps."
            )
        steps, network = self._reach(longest - validation), copy.copy(self.network)
        series = known.series(data, static, device=self.device, together=self.multivariate)
        sizes = known.sizes() | ({"channels": len(data)} if self.multivariate else {})

        def learnt(validation: int, budget: Budget) -> History:
            with torch.random.fork_rng():
                torch.manual_seed(budget.seed)
                module = network.build(steps, self.h, sizes).to(self.device)
                history = fitting.train(
                    module, series, steps=network.steps, horizon=self.h, validation=validation, budget=budget,
                    on_step=on_step,
                )  # fmt: skip
            module.eval()
            return history

        again = 10 * validation > longest and not network.exact
        # Learnt anew, its quantiles are replaced by errors of the median, where there are enough of them.
        median = again and network.intervals != "quantiles" and validation >= self.h + FEWEST - 1
        history = learnt(validation, replace(self.budget, median=median))
        network.calibrate(series, self.h, validation, alike=again)
        if again:
            learnt(0, replace(self.budget, steps=history.best))
        # Only now: what fails leaves what was there.
        self.network, self.history, self._known, self._static = network, history, known, static
        self._polars = is_polars(df)
        self._remember(data)
        return self

    def predict(
        self,
        h: int | None = None,
        df: Any = None,
        futr_df: Any = None,
        *,
        static_df: Any = None,
        level: float | Sequence[float] | None = None,
        quantiles: float | Sequence[float] | None = None,
    ) -> Any:
        """Forecasts of each series after its last time.

        Args:
            h: steps, any number; None: those of the constructor.
            df: series to forecast in place of those that were fitted, of any length; static_df: theirs.
            futr_df: the columns `futr_exog_list` of these steps.
            level: intervals, in percent, or one of them: columns `NAME-lo-80` and `NAME-hi-80`.
            quantiles: likewise: columns `NAME_ql0.1`.
        Returns:
            A frame with the series' name, the time, and NAME: the median, or the one forecast that the network has.
        Raises:
            ValueError: it was not fitted, or covariates of a step are missing.
        """
        h, data = self.h if h is None else whole_number("h", h), self._fitted()
        readers, polars = self._readers, self._polars
        static = self._static if static_df is None else as_pandas(static_df)
        if df is not None:
            fitted, data = data, self._laid(df, data.freq)
            readers, polars = [], is_polars(df)
            if self.multivariate and data.ids != fitted.ids:
                raise ValueError(
                    f"Forecaster: it reads the series {some(fitted.ids)} together; df has {some(data.ids)}. Give the "
                    "same ones."
                )
        times = [ahead(known, data.freq, h) for known in data.times]
        futr = self._future(data, times, futr_df) if self.columns.futr else None
        series = self._known.series(data, static, futr, device=self.device, together=self.multivariate)
        point, answers = self.network.forecast(series, h, readers or None)
        return like(self._answer(data.ids, times, point, answers, level, quantiles), polars)

    def update(self, df: Any) -> Forecaster:
        """Go on with new observations of the fitted series, without learning; returns this forecaster.

        Times may be left out (they count as missing), and series may be without news; with multivariate=True these are
        then missing for good, for all go on together. The states of the network move by
        the new patches alone (`exgate.forecast.online`); of each series the values that they need are kept.

        Raises:
            ValueError: nothing was fitted, a series is not known, or a time is not after those that are known.
        """
        known, frame = self._fitted(), as_pandas(df)
        if frame.empty:
            return self
        new = panel(_after(frame, known, self.columns), self.columns, known.freq, empty=True)
        at = {name: place for place, name in enumerate(new.ids)}
        fields: dict[str, list[Any]] = {name: list(getattr(known, name)) for name in PARTS}
        for place, name in enumerate(known.ids):
            if name in at:
                for part in PARTS:  # the first row is the last known time, from which the grid goes on
                    fields[part][place] = _joined(fields[part][place], getattr(new, part)[at[name]][1:])
        grown = replace(known, **fields, notes=[])
        self._panel = aligned(grown) if self.multivariate else grown
        self._trim()
        if self.network.patched:
            series = self._known.series(self._panel, self._static, device=self.device, together=self.multivariate)
            ends = [len(values) for values in series.values]
            online.advance(self.network.module, self._readers, series, ends, self.network.steps)
        return self

    def cross_validation(self, df: Any, static_df: Any = None, **options: Any) -> Any:
        """Forecasts of the last windows of a known past: `exgate.forecast.backtest.cross_validation`, by a copy."""
        from exgate.forecast.backtest import cross_validation

        return cross_validation(copy.copy(self), df, static_df, **options)

    def evaluate(self, forecasts: Any, train_df: Any = None, *, season: int = 1) -> Frame:
        """Errors of a cross-validation: `exgate.forecast.backtest.evaluate`."""
        from exgate.forecast.backtest import evaluate

        return evaluate(forecasts, train_df, season=season, columns=self.columns)

    def plot(self, df: Any, forecasts: Any, path: str | os.PathLike[str], **options: Any) -> Path:
        """A picture of series and forecasts: `exgate.forecast.backtest.plot`."""
        from exgate.forecast.backtest import plot

        return plot(df, forecasts, path, columns=self.columns, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it into a folder: `exgate.forecast.saving.save`."""
        from exgate.forecast.saving import save

        return save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Forecaster:
        """Open a saved one: `exgate.forecast.saving.load`."""
        from exgate.forecast.saving import load

        return load(path, device)

    def _fitted(self) -> Panel:
        if self._panel is None:
            raise ValueError("Forecaster: nothing was fitted. Call fit(df) first, or load a forecaster.")
        return self._panel

    def _laid(self, df: Any, freq: Any) -> Panel:
        """A frame on grids; on one, where all series are read together."""
        data = panel(as_pandas(df), self.columns, freq)
        return aligned(data) if self.multivariate else data

    def _remember(self, data: Panel) -> None:
        """Keep what forecasts and updates need of the fitted series."""
        self._panel = data
        self._readers = [online.Reader() for _ in (data.ids[:1] if self.multivariate else data.ids)]
        self._trim(slack=0)

    def _trim(self, slack: int = 2) -> None:
        """Drop values that no state will read: all but the last 2 L and a patch, once there are `slack` L more."""
        known, patch = self._fitted(), self.network.patch
        steps = self.network.steps
        fields: dict[str, list[Any]] = {name: list(getattr(known, name)) for name in PARTS}
        for place, values in enumerate(known.values):
            drop = (len(values) - 2 * steps - patch) // patch * patch
            if drop > slack * steps:
                if place < len(self._readers):  # one for all, where they are read together
                    self._readers[place].forget(drop, patch)
                for part in PARTS:
                    fields[part][place] = fields[part][place][drop:]
        self._panel = replace(known, **fields)

    def _held_back(self, longest: int) -> int:
        """Steps of the validation block where nobody says how many."""
        horizons = 2 if longest >= 10 * self.h else 1 if longest >= 5 * self.h else 0
        least = self.h + FEWEST - 1
        if self.network.intervals == "quantiles" or (self.network.intervals is None and longest < 4 * least):
            return horizons * self.h
        return max(horizons * self.h, least, min(self.h + ENOUGH - 1, longest // 4))

    def _reach(self, longest: int) -> int:
        """Steps that are read where nobody says how many; a tenth of the longest series is left to be forecast."""
        if self.input_size is not None:
            return self.input_size
        return max(2, min(max(3 * self.h, SHORTEST), (9 * longest) // 10 - self.h))  # one value alone has no units

    def _answer(self, ids, times, point: np.ndarray, answers: np.ndarray, level, quantiles) -> Frame:
        """Forecasts (S, H) and their quantiles (S, H, Q) as a frame."""
        import pandas

        count = answers.shape[1]
        frame = pandas.DataFrame({
            self.columns.unique_id: np.repeat(np.array(ids, object), count),
            self.columns.ds: times[0].append(list(times[1:])) if len(times) > 1 else times[0],
        }).infer_objects()  # fmt: skip
        wanted: dict[str, float] = {}
        for size in _listed(level):
            if not 0 < size < 100:
                raise ValueError(f"Forecaster: level is {size}; it should be between 0 and 100, in percent.")
            wanted |= {f"{self.alias}-lo-{size:g}": 0.5 - size / 200, f"{self.alias}-hi-{size:g}": 0.5 + size / 200}
        wanted |= {f"{self.alias}_ql{size:g}": size for size in _listed(quantiles)}
        frame[self.alias] = point.ravel()
        columns = interpolated(answers, self.network.quantiles, list(wanted.values()))
        return frame.assign(**{name: columns[..., place].ravel() for place, name in enumerate(wanted)})

    def _future(self, data: Panel, times: list[Index], futr_df: Any) -> list[np.ndarray]:
        """The known columns of each series, to the end of the horizon."""
        wanted = [*self.columns.futr]
        if futr_df is None:
            raise ValueError(
                f"Forecaster: {some(wanted)} are known ahead: give futr_df with {len(times[0])} steps of each series."
            )
        own = panel(as_pandas(futr_df).assign(**{self.columns.y: 0.0}), replace(self.columns, hist=()), data.freq)
        at = dict(zip(own.ids, zip(own.times, own.futr, strict=True), strict=True))
        parts = []
        for name, before, steps in zip(data.ids, data.futr, times, strict=True):
            if name not in at:
                raise ValueError(f"Forecaster: futr_df has no rows of series {name!r}.")
            index, values = at[name]
            place = index.get_indexer(steps)
            ahead_of = np.where((place >= 0)[:, None], values[place], np.nan)
            absent = np.isnan(ahead_of).any(1)
            if absent.any():
                raise ValueError(
                    f"Forecaster: futr_df lacks {absent.sum()} of the {len(steps)} steps of series {name!r}, the first "
                    f"at {steps[absent][0]}. It needs a value of {some(wanted)} for each."
                )
            parts.append(np.concatenate([before, ahead_of]))
        return parts


def _listed(numbers: float | Sequence[float] | None) -> list[float]:
    """None, one number or many, as a list."""
    return [] if numbers is None else np.ravel(numbers).tolist()


def _dated(frame: Frame, columns: Columns) -> bool:
    return frame[columns.ds].dtype.kind == "M"


def _joined(known: Any, new: Any) -> Any:
    return known.append(new) if hasattr(known, "append") else np.concatenate([known, new])


def _after(frame: Frame, known: Panel, columns: Columns) -> Frame:
    """New rows, and before those of each series its last known time without values: their grid goes on from there."""
    import pandas

    key = columns.unique_id
    if key not in frame.columns:
        if len(known.ids) > 1:
            raise ValueError(f"Forecaster: the new rows have no column {key!r}; there are {len(known.ids)} series.")
        frame = frame.assign(**{key: known.ids[0]})
    frame = checked(frame, columns)
    last = {name: times[-1] for name, times in zip(known.ids, known.times, strict=True)}
    one, zone = next(iter(last.values())), getattr(frame[columns.ds].dt, "tz", None) if _dated(frame, columns) else None
    if _dated(frame, columns) != hasattr(one, "tzinfo") or (zone is None) != (getattr(one, "tzinfo", None) is None):
        raise ValueError(
            f"Forecaster: the new times are as {frame[columns.ds].iloc[0]!r}, those that are known as {one!r}. They "
            "should be of one kind, with a time zone or without."
        )
    if zone is not None:
        frame = frame.assign(**{columns.ds: frame[columns.ds].dt.tz_convert(one.tzinfo)})
    names = list(dict.fromkeys(frame[key]))
    odd = [name for name in names if name not in last]
    if odd:
        raise ValueError(
            f"Forecaster: {some(odd)} was not fitted. Fit again with it, or forecast it with predict(df=...)."
        )
    before = frame[columns.ds] <= frame[key].map(last)
    if before.any():
        row = frame[before].iloc[0]
        raise ValueError(
            f"Forecaster: {before.sum()} rows are not after what is known: {shown(row[key])} at {row[columns.ds]}, "
            f"of which times up to {last[row[key]]} are known. Leave them out."
        )
    begins = pandas.DataFrame({key: names, columns.ds: [last[name] for name in names]})
    return pandas.concat([begins.astype({columns.ds: frame[columns.ds].dtype}), frame], ignore_index=True)
