"""Forecasts of a past that is known: windows one after the other, their errors, and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exgate import figure
from exgate.forecast.forecaster import Forecaster
from exgate.forecast.frame import (
    Columns,
    Frame,
    Panel,
    aligned,
    as_pandas,
    is_polars,
    like,
    named,
    panel,
    some,
    whole_number,
)
from exgate.forecast.windows import evenly


def cross_validation(
    forecaster: Forecaster,
    df: Any,
    static_df: Any = None,
    *,
    n_windows: int = 1,
    step_size: int | None = None,
    h: int | None = None,
    refit: bool | int = False,
    val_size: int | None = None,
    level: Sequence[float] | None = None,
    quantiles: Sequence[float] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Any:
    """Forecast the last windows of each series from what lies before them.

    Args:
        forecaster: is fitted here, to what lies before the first window.
        df, static_df, val_size, on_step: as in `Forecaster.fit`; h, level, quantiles: as in `Forecaster.predict`.
        n_windows, step_size: how many windows, and the steps from one to the next (None: h); the last one ends with the
            series.
        refit: fit before every window, or before every so many; else the first fit forecasts all of them.
    Returns:
        A frame with the series' name, the time, `cutoff` (the last time that was known), the columns of `predict`, and
        the value.
    Raises:
        ValueError: there is no window, or a series is too short for them.
    """
    import pandas

    columns, h = forecaster.columns, forecaster.h if h is None else h
    step = h if step_size is None else step_size
    if n_windows < 1 or step < 1:
        raise ValueError(f"cross_validation: n_windows={n_windows} and step_size={step} should be at least 1.")
    whole = panel(as_pandas(df), columns, forecaster.freq)
    if forecaster.multivariate:
        whole = aligned(whole)
    ends = {name: len(times) for name, times in zip(whole.ids, whole.times, strict=True)}
    needed = h + (n_windows - 1) * step
    short = [name for name, count in ends.items() if count <= needed]
    if short:
        raise ValueError(
            f"cross_validation: {n_windows} windows of {h} steps, {step} apart, leave nothing of series {short[0]!r}, "
            f"which has {ends[short[0]]}. Ask for fewer windows, or leave it out."
        )
    frame = _regular(whole, columns)
    parts = []
    for window in range(n_windows):
        place = -h - (n_windows - 1 - window) * step
        cutoffs = {name: times[place - 1] for name, times in zip(whole.ids, whole.times, strict=True)}
        before = frame[columns.ds] <= frame[columns.unique_id].map(cutoffs)
        if window == 0 or (refit and window % int(refit) == 0):
            forecaster.fit(frame[before], static_df, val_size=val_size, on_step=on_step)
        later = frame[~before] if columns.futr else None
        answer = forecaster.predict(h, frame[before], later, static_df=static_df, level=level, quantiles=quantiles)
        parts.append(answer.assign(cutoff=answer[columns.unique_id].map(cutoffs)))
    answer = pandas.concat(parts, ignore_index=True)
    truth = frame[[columns.unique_id, columns.ds, columns.y]]
    answer = answer.merge(truth, on=[columns.unique_id, columns.ds], how="left")
    first = [columns.unique_id, columns.ds, "cutoff"]
    return like(answer[[*first, *(name for name in answer if name not in first)]], is_polars(df))


def _regular(whole: Panel, columns: Columns) -> Frame:
    """A panel as a long frame with a row for every time; what is known ahead goes on through missing rows."""
    import pandas

    parts = []
    for place, name in enumerate(whole.ids):
        fields = {columns.unique_id: name, columns.ds: whole.times[place], columns.y: whole.values[place]}
        fields |= {column: whole.hist[place][:, at] for at, column in enumerate(columns.hist)}
        part = pandas.DataFrame(fields)
        for at, column in enumerate(columns.futr):
            part[column] = pandas.Series(whole.futr[place][:, at]).ffill().bfill()
        parts.append(part)
    return pandas.concat(parts, ignore_index=True)


def evaluate(forecasts: Any, train_df: Any = None, *, season: int = 1, columns: Columns | None = None) -> Frame:
    """Errors of a cross-validation, means over all series and windows: a row for each measure, a column for each model.

    MAE, RMSE, sMAPE (of utilsforecast: 0 to 1), MASE where `train_df` is given (over the error there of repeating the
    season before), and the coverage of each interval.

    Raises:
        ImportError: utilsforecast is not installed.
        ValueError: a column is missing, no value is known, or the season is not at least 1.
    """
    try:
        from utilsforecast import evaluation, losses
    except ImportError as error:
        raise ImportError(
            "exgate: errors need the package 'utilsforecast'. Install the extra: pip install 'exgate[forecast]'"
        ) from error
    from functools import partial

    names = Columns() if columns is None else columns
    frame, season = as_pandas(forecasts), whole_number("season", season)
    models, needed = _models(frame, names), [names.unique_id, names.ds, names.y]
    if not models or not {*needed} <= {*frame}:
        raise ValueError(
            f"forecast: evaluate was given the columns {some(list(frame), 20)}; it needs {some(needed)} and at least "
            "one of forecasts. Give it what cross_validation returned."
        )
    frame = frame.dropna(subset=[names.y])
    if frame.empty:
        raise ValueError(
            f"forecast: evaluate was given no row with a value of {names.y!r}: there is nothing to compare."
        )
    train_df = None if train_df is None else named(as_pandas(train_df), names)
    wanted: list[Any] = [losses.mae, losses.rmse, losses.smape]
    if train_df is not None:
        wanted.append(partial(losses.mase, seasonality=season))
    levels: list[Any] = sorted({float(str(name).rsplit("-", 1)[1]) for name in frame if "-lo-" in str(name)})
    levels = [int(level) if level.is_integer() else level for level in levels]
    scored = evaluation.evaluate(
        frame, [*wanted, *([losses.coverage] if levels else [])], models=models, level=levels or None,
        train_df=train_df, id_col=names.unique_id, time_col=names.ds,
        target_col=names.y,
    )  # fmt: skip
    return scored.groupby("metric", sort=False)[models].mean()


def plot(
    df: Any,
    forecasts: Any,
    path: str | os.PathLike[str],
    *,
    columns: Columns | None = None,
    most: int = 4,
    before: int | None = None,
    label: str | None = None,
) -> Path:
    """A picture of series and their forecasts, intervals shaded; returns its path.

    Args:
        df: what is known; forecasts: of `predict` or `cross_validation`, which may hold several models.
        most: series that are shown, evenly chosen; before: steps before the forecasts (None: three times theirs).
        label: what the values are; None: the name of their column.
    """
    import pandas

    names = Columns() if columns is None else columns
    known, ahead = named(as_pandas(df), names), as_pandas(forecasts)
    every = ahead[names.unique_id].unique()
    ids = evenly(every, most)
    drawn = figure.empty(9, 0.6 + 2.3 * len(ids), "forecasts")
    axes = drawn.subplots(len(ids), 1, squeeze=False)[:, 0]
    if known[names.ds].dtype.kind not in "Miuf":
        known = known.assign(**{names.ds: pandas.to_datetime(known[names.ds])})
    models = _models(ahead, names)
    for axis, name in zip(axes, ids, strict=True):
        future = ahead[ahead[names.unique_id] == name].sort_values(names.ds)
        past = known[known[names.unique_id] == name].sort_values(names.ds)
        count = 3 * len(future) if before is None else before
        past = past[past[names.ds] <= future[names.ds].max()].tail(count + len(future))
        _draw(axis, past, future, models, names)
        axis.set_title(str(name), loc="left", fontsize=10)
    drawn.supylabel(names.y if label is None else label, fontsize=9)
    if len(ids) < len(every):
        drawn.suptitle(f"{len(ids)} of {len(every)} series", fontsize=9)
    axes[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return figure.save(drawn, path)


def _draw(axis: Any, past: Frame, future: Frame, models: list[str], names: Columns) -> None:
    axis.plot(past[names.ds], past[names.y], color="black", linewidth=1.0, label="known")
    for place, model in enumerate(models):
        colour = f"C{place}"
        levels = [name.removeprefix(f"{model}-lo-") for name in map(str, future) if name.startswith(f"{model}-lo-")]
        parts = [group for _, group in future.groupby("cutoff")] if "cutoff" in future else [future]
        for number, part in enumerate(parts):
            axis.plot(part[names.ds], part[model], color=colour, linewidth=1.2, label=None if number else model)
            for depth, level in enumerate(sorted(levels, key=float, reverse=True)):  # the widest first, and lightest
                band = part[f"{model}-lo-{level}"], part[f"{model}-hi-{level}"]
                said = None if number else f"{level} % interval" if len(models) == 1 else f"{model}, {level} % interval"
                axis.fill_between(
                    part[names.ds], *band, color=colour, alpha=min(0.15 + 0.1 * depth, 0.5), linewidth=0, label=said
                )
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _models(frame: Frame, names: Columns) -> list[str]:
    """The columns that are point forecasts."""
    known = {names.unique_id, names.ds, names.y, "cutoff"}
    return [
        str(name)
        for name in frame
        if name not in known and not any(mark in str(name) for mark in ("-lo-", "-hi-", "_ql"))
    ]
