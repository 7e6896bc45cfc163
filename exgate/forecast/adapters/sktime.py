"""Forecasters in sktime: an estimator over `Forecaster`, with intervals, covariates, panels, and going on."""

# sktime is not in the environment of the type checker.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exgate.forecast.forecaster import QUANTILES, Forecaster
from exgate.forecast.frame import Frame, Index, needed, shown

try:
    from sktime.forecasting.base import BaseForecaster, ForecastingHorizon
except ImportError as error:
    raise ImportError(
        "exgate: exgate.forecast.adapters.sktime needs the package 'sktime'. Install it: pip install sktime"
    ) from error


class ExgateForecaster(BaseForecaster):
    """One network for a series, or for all series of a panel; the arguments are those of `Forecaster`.

    >>> forecaster = ExgateForecaster(max_steps=300).fit(y, fh=[1, 2, 3])         # doctest: +SKIP
    >>> forecaster.predict_interval(coverage=0.9)                                 # doctest: +SKIP

    X is known ahead, and needs a row for each step up to the furthest that is forecast. Only `patch_xlstm` reads it.
    Times that are left out count as missing. The columns of a multivariate y are forecast each by itself.

    `update` learns anew from all data, if sktime keeps them (its config `remember_data`); with `update_params=False` it
    takes new observations into the state of the network, at the cost of the new patches alone.

    Args:
        model: as in `Forecaster`.
        h: steps to train for, after which any `fh` can be forecast; None: the furthest of `fh`, which `fit` then needs
            and which stays.
        val_size: steps that are held back, as in `Forecaster.fit`.
        options: fields of the network's config, as {"dim": 128}; None: none.
        input_size, quantiles, intervals, max_steps, batch_size, learning_rate, val_check_steps,
            early_stop_patience_steps, random_seed, device: as in `Forecaster`.
    """

    _tags = {  # noqa: RUF012
        "authors": ["The exgate authors"],
        "maintainers": ["The exgate authors"],
        "python_dependencies": ["torch"],
        "y_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "X_inner_mtype": ["pd.DataFrame", "pd-multiindex", "pd_multiindex_hier"],
        "capability:multivariate": False,
        "capability:exogenous": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:missing_values": True,
        "capability:non_contiguous_X": False,
        "capability:categorical_in_X": False,
        "capability:unequal_length": True,
        "capability:update": True,
        "requires-fh-in-fit": True,
        "X-y-must-have-same-index": False,
    }

    def __init__(
        self,
        model: str = "patch_xlstm",
        *,
        h: int | None = None,
        input_size: int | None = None,
        quantiles: Sequence[float] = QUANTILES,
        intervals: str | None = None,
        val_size: int | None = None,
        max_steps: int = 1000,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        val_check_steps: int = 50,
        early_stop_patience_steps: int = 6,
        random_seed: int = 0,
        device: str = "cpu",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.h = h
        self.input_size = input_size
        self.quantiles = quantiles
        self.intervals = intervals
        self.val_size = val_size
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.val_check_steps = val_check_steps
        self.early_stop_patience_steps = early_stop_patience_steps
        self.random_seed = random_seed
        self.device = device
        self.options = options
        super().__init__()
        self.set_tags(**{"requires-fh-in-fit": h is None, "capability:exogenous": model == "patch_xlstm"})

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Small and quick ones, for sktime's tests of an estimator."""
        small = {"max_steps": 3, "batch_size": 4, "options": {"dim": 8, "blocks": 1, "heads": 2, "patch": 2}}
        return [small, {**small, "h": 2, "input_size": 6, "val_size": 0}]

    def _fit(self, y: Frame, X: Frame | None, fh: Any) -> ExgateForecaster:
        parts = _instances(y)
        self._instances, self._levels = list(parts), y.index.names
        self._covariates = [] if X is None or self.model != "patch_xlstm" else list(X.columns)
        freq = _freq(next(iter(parts.values())).index)
        self._ends = [_end(part.index, freq) for part in parts.values()]
        own = (
            "input_size", "quantiles", "intervals", "max_steps", "batch_size", "learning_rate", "val_check_steps",
            "early_stop_patience_steps", "random_seed", "device",
        )  # fmt: skip
        forecaster = Forecaster(
            self.model, h=self._furthest(fh) if self.h is None else self.h, freq=freq, futr_exog_list=self._columns(),
            **{name: getattr(self, name) for name in own}, **(self.options or {}),
        )  # fmt: skip
        self.forecaster_ = forecaster.fit(self._long(parts, X), val_size=self.val_size)
        self._ends = [_end(part.index, self.forecaster_._fitted().freq) for part in parts.values()]
        return self

    def _predict(self, fh: Any, X: Frame | None) -> Frame:
        answer, index = self._answer(fh, X)
        values = answer[self.forecaster_.alias].to_numpy()
        return needed().DataFrame({self._get_varnames()[0]: values}, index=index)

    def _predict_quantiles(self, fh: Any, X: Frame | None, alpha: list[float]) -> Frame:
        answer, index = self._answer(fh, X, alpha)
        values = answer[[f"{self.forecaster_.alias}_ql{level:g}" for level in alpha]].to_numpy()
        columns = needed().MultiIndex.from_product([self._get_varnames(), alpha])
        return needed().DataFrame(values, index=index, columns=columns)

    def _update(self, y: Frame, X: Frame | None = None, update_params: bool = True) -> ExgateForecaster:
        if update_params and self.get_config()["remember_data"]:
            return self._fit(self._y, self._X, self._fh)
        new, freq = {}, self.forecaster_._fitted().freq
        for name, part in _instances(y).items():
            if name not in self._instances:
                raise ValueError(f"sktime: the series {shown(name)} was not fitted. Fit again with it.")
            place = self._instances.index(name)
            part = part[part.index > self._ends[place][0]]
            if len(part):
                new[name] = part
        if new:
            self.forecaster_.update(self._long(new, X))
            for name, part in new.items():
                self._ends[self._instances.index(name)] = _end(part.index, freq)
        return self

    def _answer(self, fh: Any, X: Frame | None, quantiles: Sequence[float] = ()) -> tuple[Frame, Index]:
        """The rows of `Forecaster.predict` that the horizon names, and their index."""
        horizon = self._furthest(fh)
        answer = self.forecaster_.predict(horizon, futr_df=self._ahead(X, horizon), quantiles=quantiles)
        rows = [place * horizon + fh.to_relative(end).to_numpy() - 1 for place, end in enumerate(self._ends)]
        times = [fh.to_absolute_index(end) for end in self._ends]
        answer = answer.iloc[np.concatenate(rows)]
        if self._instances == [()]:
            return answer, times[0]
        index = [(*name, time) for name, own in zip(self._instances, times, strict=True) for time in own]
        return answer, needed().MultiIndex.from_tuples(index, names=self._levels)

    def _furthest(self, fh: Any) -> int:
        """How many steps after the end of its series the last one of the horizon lies."""
        steps = np.concatenate([fh.to_relative(end).to_numpy() for end in self._ends]).astype(int)
        if steps.min() < 1:
            raise ValueError(
                f"sktime: fh has the step {steps.min()} of a series, counted from its end; it should begin at 1."
            )
        return int(steps.max())

    def _columns(self) -> list[str]:
        return [f"X.{name}" for name in self._covariates]

    def _long(self, parts: dict[tuple[Any, ...], Frame], X: Frame | None) -> Frame:
        """Series and their covariates as the frame of a `Forecaster`; they are named by their place."""
        pandas, known, frames = needed(), {} if X is None else _instances(X), []
        for name, part in parts.items():
            fields = {"ds": _times(part.index), "y": part.iloc[:, 0].to_numpy()}
            if self._covariates:
                fields |= self._rows(known, name, part.index)
            frames.append(pandas.DataFrame(fields).assign(unique_id=self._instances.index(name)))
        return pandas.concat(frames, ignore_index=True)

    def _ahead(self, X: Frame | None, horizon: int) -> Frame | None:
        """What X says of the next steps of each series."""
        if not self._covariates:
            return None
        if X is None:
            raise ValueError(f"sktime: it was fitted with X; give X with a row for each of the next {horizon} steps.")
        pandas, known, frames = needed(), _instances(X), []
        for place, (name, end) in enumerate(zip(self._instances, self._ends, strict=True)):
            index = ForecastingHorizon(np.arange(1, horizon + 1), is_relative=True).to_absolute_index(end)
            fields = {"ds": _times(index), **self._rows(known, name, index)}
            frames.append(pandas.DataFrame(fields).assign(unique_id=place))
        return pandas.concat(frames, ignore_index=True)

    def _rows(self, known: dict[tuple[Any, ...], Frame], name: tuple[Any, ...], index: Index) -> dict[str, np.ndarray]:
        """The covariates of one series at these times, NaN where X has none."""
        part = known[name] if name in known else needed().DataFrame(columns=self._covariates, dtype=float)
        rows = part.reindex(index)
        return {column: rows[own].to_numpy() for column, own in zip(self._columns(), self._covariates, strict=True)}


def _instances(y: Frame) -> dict[tuple[Any, ...], Frame]:
    """The series of a panel by the labels of their instance, each with its times as index; a series alone is ()."""
    if y.index.nlevels == 1:
        return {(): y}
    groups = y.groupby(level=list(range(y.index.nlevels - 1)), sort=False)
    return {
        name if isinstance(name, tuple) else (name,): part.set_index(part.index.get_level_values(-1))
        for name, part in groups
    }


def _freq(index: Index) -> Any:
    """What a `Forecaster` is told of the distance between two times; None: it finds out."""
    pandas = needed()
    if isinstance(index, pandas.PeriodIndex):
        return index.freq.n
    return index.freq if isinstance(index, pandas.DatetimeIndex) else 1


def _times(index: Index) -> Index:
    """Times as a `Forecaster` reads them: periods are counted."""
    return needed().Index(index.asi8) if isinstance(index, needed().PeriodIndex) else index


def _end(index: Index, freq: Any) -> Index:
    """The last time of an index, which knows what comes after it."""
    pandas = needed()
    return pandas.DatetimeIndex(index[-1:], freq=freq) if isinstance(index, pandas.DatetimeIndex) else index[-1:]
