"""Long data frames (one row per series and time) as arrays on a regular grid, and back; what is wrong is said.

pandas is imported where it is used: `import exgate.forecast` does not need it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

# What pandas' annotations say of its answers (a column of a frame may be a frame) is too wide for a type checker.
Frame = Column = Index = Any
STRETCH = 24  # times without a gap that tell a frequency


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns.

    Args:
        unique_id, ds, y: the series' name, the time, and what is forecast.
        hist, futr: numeric columns known up to now, and known ahead.
        stat: columns of the static frame: numbers, or anything else as categories.
    """

    unique_id: str = "unique_id"
    ds: str = "ds"
    y: str = "y"
    hist: tuple[str, ...] = ()
    futr: tuple[str, ...] = ()
    stat: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Panel:
    """S series, each on a grid of its own without gaps.

    Args:
        ids: S names, sorted.
        freq: what lies between two steps: a pandas offset, or a whole number where times are numbers.
        times: S indices of T_i times, as given.
        values: S arrays (T_i,), NaN where missing.
        hist, futr: S arrays (T_i, N), NaN where missing; with no such columns N = 0.
        filled: how many of the times were not given.
        notes: what was filled or found, in words: one each.
    """

    ids: list[Any]
    freq: Any
    times: list[Index]
    values: list[np.ndarray]
    hist: list[np.ndarray]
    futr: list[np.ndarray]
    filled: int = 0
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def as_pandas(df: Any) -> Frame:
    """A pandas or polars frame as pandas.

    Raises:
        ImportError: pandas is not installed.
        ValueError: it is neither.
    """
    if isinstance(df, needed().DataFrame):
        return df
    if is_polars(df):
        return df.to_pandas()
    raise ValueError(f"forecast: the data are a {type(df).__name__}; they should be a pandas or polars DataFrame.")


def is_polars(df: Any) -> bool:
    """Whether the data are a polars frame; polars itself is not imported."""
    return type(df).__module__.partition(".")[0] == "polars" and hasattr(df, "to_pandas")


def like(frame: Frame, polars: bool) -> Any:
    """A pandas frame as it is, or as polars."""
    if not polars:
        return frame
    from polars import from_pandas

    return from_pandas(frame)


def named(df: Frame, columns: Columns) -> Frame:
    """A frame whose series have names; without that column it is one series."""
    return df if columns.unique_id in df.columns else df.assign(**{columns.unique_id: "series"})


def panel(df: Frame, columns: Columns, freq: Any = None, *, empty: bool = False) -> Panel:
    """Check a long frame, and lay its series on their grids.

    Args:
        df: one row per series and time, in any order; without the column `unique_id` it is one series.
        columns: names.
        freq: a pandas offset or its name ("h", "15min", "MS"), or a whole number where `ds` are numbers; None: the most
            frequent distance between two times.
        empty: a series may be without any value.
    Raises:
        ValueError: a column is missing or not numeric, times are not times, stamps are there twice or beside the grid,
            values are infinite, or a series has no value.
    """
    df = checked(df, columns)
    offset = _frequency(df, columns, freq)
    ids, times, values, hist, futr, notes = [], [], [], [], [], []
    filled = absent = 0
    for name, part in df.groupby(columns.unique_id, sort=True, observed=True):
        grid = _grid(part[columns.ds], offset, name)
        own = part.set_index(columns.ds).reindex(grid)
        filled += len(grid) - len(part)
        y = own[columns.y].to_numpy(float, na_value=np.nan)
        absent += int(np.isnan(y).sum()) - (len(grid) - len(part))
        ids.append(name.item() if isinstance(name, np.generic) else name)
        times.append(grid)
        values.append(y)
        hist.append(own[list(columns.hist)].to_numpy(float, na_value=np.nan))
        futr.append(own[list(columns.futr)].to_numpy(float, na_value=np.nan))
    without = [name for name, y in zip(ids, values, strict=True) if np.isnan(y).all()]
    if without and not empty:
        raise ValueError(
            f"forecast: {some(without)} {'has' if len(without) == 1 else 'have'} no value in {columns.y!r}. "
            "Leave these series out."
        )
    if filled:
        share = "" if filled <= len(df) else ", more than there are: is the frequency right?"
        notes.append(f"{filled} missing times were added without a value{share}")
    if absent:
        notes.append(f"{absent} values are missing")
    constant = [name for name, y in zip(ids, values, strict=True) if len(np.unique(y[~np.isnan(y)])) == 1]
    if constant:
        notes.append(f"{len(constant)} series are constant: {some(constant)}")
    return Panel(ids=ids, freq=offset, times=times, values=values, hist=hist, futr=futr, filled=filled, notes=notes)


def aligned(data: Panel) -> Panel:
    """The same series over the same times, from the first of any to the last of any; NaN where one has none.

    Raises:
        ValueError: times of one series lie between those of another.
    """
    pandas = needed()
    first, last = min(times[0] for times in data.times), max(times[-1] for times in data.times)
    if isinstance(data.freq, int):
        grid = pandas.Index(np.arange(first, last + data.freq, data.freq))
    else:
        grid = pandas.DatetimeIndex(pandas.date_range(first, last, freq=data.freq))
    values = []
    for name, times, own in zip(data.ids, data.times, data.values, strict=True):
        places = grid.get_indexer(times)
        if (places < 0).any():
            raise ValueError(
                f"forecast: series {name!r} has the time {times[places < 0][0]}, which lies between those of other "
                "series. Series that are read together need the same times: shift or resample it."
            )
        values.append(np.full(len(grid), np.nan))
        values[-1][places] = own
    none = np.zeros((len(grid), 0))
    count = len(data)
    return replace(data, times=[grid] * count, values=values, hist=[none] * count, futr=[none] * count)


def ahead(times: Index, freq: Any, horizon: int) -> Index:
    """The `horizon` times after the last of these."""
    pandas = needed()
    last = times[-1]
    if isinstance(freq, int):
        return pandas.Index(last + freq * np.arange(1, horizon + 1))
    return pandas.DatetimeIndex(pandas.date_range(last, periods=horizon + 1, freq=freq)[1:])


def checked(df: Frame, columns: Columns) -> Frame:
    """The columns that are used, with the right types, sorted; or the reason why not."""
    pandas = needed()
    df = named(df, columns)
    numeric = [columns.y, *columns.hist, *columns.futr]
    wanted = list(dict.fromkeys([columns.unique_id, columns.ds, *numeric]))
    missing = [name for name in wanted if name not in df.columns]
    if missing:
        raise ValueError(
            f"forecast: there is no column {some(missing)}; the columns are {', '.join(map(str, df.columns))}. "
            "Rename yours, or say what they are called (time_col, target_col, id_col)."
        )
    if df.empty:
        raise ValueError("forecast: the frame has no rows.")
    df = df[wanted].copy()
    if df[columns.unique_id].isna().any():
        raise ValueError(f"forecast: {columns.unique_id!r} is missing in {df[columns.unique_id].isna().sum()} rows.")
    df[columns.ds] = _times(df[columns.ds])
    for name in dict.fromkeys(numeric):
        if pandas.api.types.is_bool_dtype(df[name]) and name != columns.y:
            df[name] = df[name].astype(float)
        if not pandas.api.types.is_numeric_dtype(df[name]) or pandas.api.types.is_bool_dtype(df[name]):
            odd = (pandas.to_numeric(df[name], errors="coerce").isna() & df[name].notna()).to_numpy()
            example = f", as {df[name].iloc[odd.argmax()]!r} in row {odd.argmax()}" if odd.any() else ""
            raise ValueError(
                f"forecast: column {name!r} has type {df[name].dtype}, not numbers{example}. "
                "Convert it: pandas.to_numeric(..., errors='coerce') makes missing values of the rest."
            )
        infinite = np.isinf(df[name].to_numpy(float, na_value=np.nan))
        if infinite.any():
            row = df.iloc[int(infinite.argmax())]
            raise ValueError(
                f"forecast: {infinite.sum()} values of {name!r} are infinite, the first of series "
                f"{shown(row[columns.unique_id])} at {row[columns.ds]}. Replace them by NaN, which is a missing value."
            )
    twice = df.duplicated([columns.unique_id, columns.ds])
    if twice.any():
        row = df[twice].iloc[0]
        raise ValueError(
            f"forecast: {twice.sum()} rows have the series and time of another row, the first of them "
            f"{shown(row[columns.unique_id])} at {row[columns.ds]}. If they are several series, name the column that "
            f"tells them apart (id_col); else keep one of each: df.drop_duplicates([{columns.unique_id!r}, "
            f"{columns.ds!r}]), or take their mean with groupby."
        )
    return df.sort_values([columns.unique_id, columns.ds], kind="stable", ignore_index=True)


def _times(column: Column) -> Column:
    """Times or whole numbers; text is read as times, and so are numbers that are all dates, as 20240131."""
    pandas = needed()
    if column.isna().any():
        raise ValueError(f"forecast: {column.name!r} is missing in {column.isna().sum()} rows. Leave these rows out.")
    types = pandas.api.types
    if types.is_datetime64_any_dtype(column):
        return column
    if types.is_numeric_dtype(column):
        if (column % 1 == 0).all():
            whole = column.astype("int64")
            dates = whole.between(10**7, 10**8).all()
            days = pandas.to_datetime(whole.astype(str), format="%Y%m%d", errors="coerce") if dates else whole
            return whole if not dates or days.isna().any() else days
        raise ValueError(f"forecast: {column.name!r} has numbers that are not whole. Count steps: 0, 1, 2, ...")
    try:
        return pandas.to_datetime(column)
    except (ValueError, TypeError) as error:
        zones = {getattr(time, "tzinfo", None) for time in column}
        text = str(error).partition("\n")[0]
        hint = (
            "its times are in several time zones: pandas.to_datetime(..., utc=True) puts them in one"
            if len(zones) > 1 or "zone" in text.lower() or "offset" in text.lower()
            else "convert it with pandas.to_datetime(..., format=...)"
        )
        raise ValueError(f"forecast: {column.name!r} could not be read as times ({text}): {hint}.") from None


def _frequency(df: Frame, columns: Columns, freq: Any) -> Any:
    """The offset between two steps, as given or as it is most often."""
    pandas = needed()
    numbers = pandas.api.types.is_integer_dtype(df[columns.ds])
    if freq is not None:
        if numbers != isinstance(freq, int):
            kind, should = (
                ("numbers", "a whole number, as 1") if numbers else ("times", "a pandas offset, as 'h' or 'D'")
            )
            raise ValueError(f"forecast: {columns.ds!r} are {kind}, but freq is {freq!r}; it should be {should}.")
        try:
            return freq if numbers else pandas.tseries.frequencies.to_offset(freq)
        except ValueError as error:
            raise ValueError(f"forecast: freq is {freq!r}, which pandas does not know: {error}.") from None
    sizes = df.groupby(columns.unique_id, observed=True)[columns.ds].transform("size")
    longest = df.loc[sizes.idxmax(), columns.unique_id]
    times = df.loc[df[columns.unique_id] == longest, columns.ds]
    if len(times) < 3:
        raise ValueError(
            f"forecast: the longest series has {len(times)} rows, too few to tell its frequency. Give it: freq='D'."
        )
    if numbers:
        return int(times.diff().mode()[0])
    index = pandas.DatetimeIndex(times)
    known = _inferred(index)
    if known is None:  # there are gaps: what most stretches without one have, else the most frequent distance
        begins = range(0, max(1, len(index) - STRETCH + 1), max(1, len(index) // 50))
        votes = Counter(filter(None, (_inferred(index[begin : begin + STRETCH]) for begin in begins)))
        known = votes.most_common(1)[0][0] if votes else None
    if known is not None:
        return known
    for name, fits in (("MS", index.is_month_start.all()), ("ME", index.is_month_end.all())):
        if fits:
            return pandas.tseries.frequencies.to_offset(name)
    return pandas.tseries.frequencies.to_offset(times.diff().mode()[0])


def _inferred(times: Index) -> Any:
    pandas = needed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas 3 says that it will return an offset, pandas 4 does
        known = pandas.infer_freq(times)
    return None if known is None else pandas.tseries.frequencies.to_offset(known)


def _grid(times: Column, freq: Any, name: Any) -> Index:
    """All times from the first to the last."""
    pandas = needed()
    first, last = times.iloc[0], times.iloc[-1]
    if isinstance(freq, int):
        grid = pandas.Index(np.arange(first, last + 1, freq))
    else:
        grid = pandas.date_range(first, last, freq=freq)
    beside = ~times.isin(grid)
    if beside.any():
        text = freq if isinstance(freq, int) else freq.freqstr
        fixed = isinstance(freq, pandas.offsets.Tick | pandas.offsets.Day)
        advice = f", or round the times, as df['ds'].dt.floor({text!r})" if fixed else ""
        raise ValueError(
            f"forecast: {beside.sum()} of {len(times)} times of series {name!r} are not on the grid of freq={text!r} "
            f"that begins at {first}, the first of them {times[beside].iloc[0]}. Give the right freq{advice}."
        )
    return grid


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least so much, of any type.

    Raises:
        ValueError: it is less, or none.
    """
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not least <= value < np.inf or int(value) != value:
        raise ValueError(f"forecast: {name} is {shown(value)}; it should be a whole number of at least {least}.")
    return int(value)


def shown(name: Any) -> str:
    """A series' name in a sentence: numpy's numbers as Python's."""
    return repr(name.item() if isinstance(name, np.generic) else name)


def some(names: Sequence[Any], most: int = 5) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def needed() -> Any:
    """pandas, or the reason why there is none."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "exgate: forecasting needs the package 'pandas'. Install the extra: pip install 'exgate[forecast]'"
        ) from error
    return pandas
