"""Forecast the series of a table, with intervals, and test the forecasts on its past.

examples:
  exgate forecast sales.csv --horizon 28
  exgate forecast load.csv --horizon 48 --time hour --target mw --level 80 --level 95 --test-windows 3
  exgate forecast shops.parquet --id shop --target sales --horizon 12 --out january
  exgate forecast

FILE is csv (may be .gz) or parquet, with a column of times and one of numbers for each series, or one row per series
and time with a column that names the series. Columns and frequency that are not named are guessed, and said. The last
windows of the known past are forecast first, beside the last season repeated and a linear forecast; then everything is
learnt and the future is forecast. Without a FILE it is the weekly CO2 of Mauna Loa, which statsmodels carries.
forecast.csv, forecast.png and the forecaster itself (forecaster/) are written to --out.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, UseAppendAction, arg

from exgate import figure, files
from exgate.cli.table import progress
from exgate.forecast import Forecaster
from exgate.forecast.forecaster import QUANTILES
from exgate.forecast.frame import Column, Columns, Frame, checked, needed, panel, some

TIMES = ("ds", "date", "datetime", "time", "timestamp", "day", "month", "year", "hour", "week")
TARGETS = ("y", "target", "value")
ALL = "all"
SEPARATORS = ",;\t|"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    file: Annotated[Positional[Path | None], arg(metavar="FILE")] = None
    """A .csv, .csv.gz or .parquet file."""
    horizon: Annotated[int | None, arg(metavar="H")] = None
    """Steps to forecast; two seasons if it is not given, at most a tenth of the longest series."""
    time: Annotated[str | None, arg(metavar="COLUMN")] = None
    """The column of times."""
    target: Annotated[str | None, arg(metavar="COLUMN")] = None
    """The column to forecast; "all": each column of numbers is a series."""
    id: Annotated[str | None, arg(metavar="COLUMN")] = None
    """The column that names the series."""
    freq: Annotated[str | None, arg(metavar="OFFSET")] = None
    """What lies between two steps, as pandas has it: h, 15min, D, W-SUN, MS, ..."""
    season: Annotated[int | None, arg(metavar="STEPS")] = None
    """Steps of a season, for the forecasts that ours are measured against."""
    level: Annotated[UseAppendAction[tuple[float, ...]], arg(metavar="PERCENT")] = ()
    """An interval that holds so many percent; may be given several times. 80 and 95 if none is."""
    test_windows: Annotated[int, arg(metavar="N")] = 3
    """Windows of the past to test on; 0: none."""
    model: str = "patch_xlstm"
    """patch_xlstm, xlstm_time, lstm_direct or dlinear."""
    input_size: Annotated[int | None, arg(metavar="STEPS")] = None
    """Steps that are read before a forecast."""
    steps: Annotated[int, arg(metavar="N")] = 500
    """Steps of training, at most."""
    seed: int = 0
    """Of the weights and of the windows that are learnt from."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path()
    """Where the files go."""


def main(argv: list[str]) -> int:
    """Runs `exgate forecast` and returns its exit status."""
    arguments = tyro.cli(Arguments, prog="exgate forecast", description=__doc__, args=argv)
    _check(arguments)
    console = Console(highlight=False)
    df, said, label = _example() if arguments.file is None else _long(read(arguments.file), arguments)
    df = checked(df, Columns())
    data = panel(df, Columns(), arguments.freq)
    season = seasonal(data.freq) if arguments.season is None else arguments.season
    longest = max(len(values) for values in data.values)
    horizon = arguments.horizon or max(1, min(2 * season, longest // 10))
    steps = data.freq if isinstance(data.freq, int) else data.freq.freqstr
    console.print(
        f"{said}. {len(data)} series of {_range([len(values) for values in data.values])} steps, every {steps}."
    )
    for note in data.notes:
        console.print(f"[yellow]{note}[/yellow]")
    if arguments.freq is None and data.filled > len(df):
        raise ValueError(
            f"exgate: with steps of {steps} most times are missing. Say what lies between two steps (--freq), or which "
            "column has the times (--time); days and months are told apart in 2024-01-31."
        )
    levels = _levels(arguments)
    ours = _forecaster(arguments, horizon, data.freq)
    _writable(arguments.out)
    if arguments.test_windows:
        _test(console, arguments, ours, df, season, levels)
    with progress(console, "learning from everything", arguments.steps) as on_step:
        ours.fit(df, on_step=on_step)
    forecasts = ours.predict(level=levels)
    table = arguments.out / "forecast.csv"
    with files.replaced(table) as temporary:
        forecasts.to_csv(temporary, index=False)
    ours.save(arguments.out / "forecaster")
    console.print(f"forecasts: {table}")
    figure.show(lambda path: ours.plot(df, forecasts, path, label=label), arguments.out / "forecast.png")
    return 0


def _check(arguments: Arguments) -> None:
    """Say what is wrong with the arguments, before a file is read."""
    for name, least in (("horizon", 1), ("season", 1), ("test_windows", 0), ("input_size", 1), ("steps", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"exgate: --{name.replace('_', '-')} is {value}; it should be at least {least}.")
    for level in _levels(arguments):
        if not 0 < level < 100:
            raise ValueError(f"exgate: --level is {level:g}; it should be between 0 and 100, in percent.")
    _forecaster(arguments, arguments.horizon or 1, None)


def _writable(folder: Path) -> None:
    """Make the folder, or say that nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"exgate: nothing can be written to --out {folder} ({error.strerror}). Name another folder."
        ) from None


def _levels(arguments: Arguments) -> list[float]:
    return sorted(set(arguments.level or (80, 95)))


def read(path: Path) -> Frame:
    """A table from a csv or parquet file.

    Raises:
        ValueError: the file is not there, of another kind, or cannot be read as such.
    """
    pandas = needed()
    if not path.is_file():
        raise ValueError(f"exgate: there is no file {path}.")
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            return pandas.read_parquet(path)
        if name.endswith((".csv", ".csv.gz", ".txt", ".txt.gz")):
            return pandas.read_csv(path, sep=_separator(path), engine="python")
    except (ValueError, OSError) as error:
        raise ValueError(f"exgate: {path} could not be read: {error}") from None
    raise ValueError(f"exgate: {path.name} is of no known kind; it should end in .csv, .csv.gz or .parquet.")


def _separator(path: Path) -> str:
    """What is most often in the first line, of what may stand between columns."""
    unzip: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with unzip(path, "rt", encoding="utf-8", errors="replace") as stream:
        return max(SEPARATORS, key=stream.readline().count)


def seasonal(freq: Any) -> int:
    """Steps of the season that a frequency often has: a day of hours or minutes, a week of days, a year of months."""
    if isinstance(freq, int):
        return 1
    name = freq.freqstr.split("-")[0].lstrip("0123456789")
    known = {"D": 7, "B": 5, "W": 52, "MS": 12, "ME": 12, "BMS": 12, "BME": 12, "QS": 4, "QE": 4, "BQS": 4, "BQE": 4}
    if name in ("h", "min", "s"):
        seconds = {"h": 3600, "min": 60, "s": 1}[name] * freq.n
        return max(1, round((86400 if seconds >= 60 else 3600) / seconds))
    return max(1, round(known.get(name, 1) / freq.n))


def _example() -> tuple[Frame, str, str]:
    needed()
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise ImportError(
            "exgate: give a FILE, or install 'statsmodels', which carries an example: pip install 'exgate[forecast]'"
        ) from error
    data: Any = co2.load_pandas().data
    table = data.reset_index()
    table.columns = ["ds", "y"]
    return table.assign(unique_id="CO2"), "no FILE: the weekly CO2 of Mauna Loa, 1958 to 2001", "ppm"


def _long(table: Frame, arguments: Arguments) -> tuple[Frame, str, str]:
    """One row per series and time, what the columns were taken for, and what the values are."""
    import pandas

    for option in ("time", "target", "id"):
        name = getattr(arguments, option)
        if name is not None and name not in table and not (option == "target" and name == ALL):
            raise ValueError(
                f"exgate: there is no column {name!r} for --{option}; the columns are {some(list(table), 20)}."
            )
    time = arguments.time or _time(table)
    table = table.copy()
    if not pandas.api.types.is_numeric_dtype(table[time]):
        try:
            table[time] = pandas.to_datetime(table[time])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"exgate: column {time!r} could not be read as times: {error}. Name another: --time."
            ) from None
    name = arguments.id or _id(table, time)
    numbers = [
        column for column in table if column not in (time, name) and pandas.api.types.is_numeric_dtype(table[column])
    ]
    odd = {column: _odd(table[column]) for column in table if column not in (time, name, *numbers)}
    wanted = (arguments.target,) if arguments.target else (*TARGETS, *([] if numbers else odd))
    wrong = next((column for column in wanted if odd.get(column)), None)
    if wrong is not None:
        raise ValueError(f"exgate: column {wrong!r} should have numbers alone, but it has {odd[wrong]}")
    if not numbers:
        raise ValueError(f"exgate: no column but {time!r} has numbers; the columns are {some(list(table), 20)}.")
    if arguments.target not in (None, ALL, *numbers):
        raise ValueError(
            f"exgate: --target is {arguments.target!r}, which has no numbers or is taken for times or names; columns "
            f"of numbers are {some(numbers, 20)}."
        )
    if arguments.target == ALL:
        parts = [
            pandas.DataFrame({
                "unique_id": column if name is None else table[name].astype(str) + ", " + str(column),
                "ds": table[time], "y": table[column],
            })
            for column in numbers
        ]  # fmt: skip
        return pandas.concat(parts, ignore_index=True), f"times: {time!r}; series: {some(numbers)}", "value"
    target = arguments.target or next((column for column in TARGETS if column in numbers), numbers[-1])
    others = (
        f' (of {len(numbers)} columns of numbers; --target NAME for another, "all" for each)'
        if len(numbers) > 1
        else ""
    )
    ids = target if name is None else table[name]
    long = pandas.DataFrame({"unique_id": ids, "ds": table[time], "y": table[target]})
    named = "" if name is None else f", series: {name!r}"
    return long, f"times: {time!r}{named}, forecast: {target!r}{others}", str(target)


def _odd(column: Column) -> str:
    """The first value that keeps a column from being numbers, and where it is; "" where none of its values is one."""
    pandas = needed()
    points = column.astype(str).str.replace(",", ".")
    if column.isna().all() or pandas.to_numeric(points, errors="coerce")[column.notna()].isna().all():
        return ""
    odd = (pandas.to_numeric(column, errors="coerce").isna() & column.notna()).to_numpy()
    if not odd.any():
        return ""
    value = column.iloc[odd.argmax()]
    comma = re.fullmatch(r"\s*[-+]?\d+,\d+\s*", str(value))
    advice = "Write decimal points, not commas." if comma else "Mend it, or leave the cell empty: it then is missing."
    return f"{value!r} in row {odd.argmax() + 1} below the head. {advice}"


def _time(table: Frame) -> str:
    """The column of times: by its type, by its name, or the first whose text can be read as times."""
    import pandas

    types = pandas.api.types
    found = [column for column in table if types.is_datetime64_any_dtype(table[column])]
    found += [column for column in table if str(column).lower() in TIMES]
    for column in table:
        if not found and types.is_string_dtype(table[column]) and pandas.to_datetime(
            table[column].head(20), errors="coerce", format="mixed"
        ).notna().all():  # fmt: skip
            found.append(column)
    if not found:
        raise ValueError(
            f"exgate: no column could be read as times; the columns are {some(list(table), 20)}. Name it: --time "
            "COLUMN. Whole numbers that count steps are times only where they are named so."
        )
    return found[0]


def _id(table: Frame, time: str) -> str | None:
    """The column that names the series, where times are there more than once."""
    if "unique_id" in table:
        return "unique_id"
    if not table[time].duplicated().any():
        return None
    import pandas

    types = pandas.api.types
    for fits in (types.is_string_dtype, types.is_integer_dtype):
        for column in table:
            if column != time and fits(table[column]) and not table.duplicated([column, time]).any():
                return column
    return None


def _forecaster(arguments: Arguments, horizon: int, freq: Any, model: str | None = None, **options: Any) -> Forecaster:
    low, high = QUANTILES[0], QUANTILES[-1]
    edges = {round(0.5 + side * level / 200, 9) for level in _levels(arguments) for side in (-1, 1)}
    quantiles = sorted({*QUANTILES, *(edge for edge in edges if not low <= edge <= high)})
    return Forecaster(
        model or arguments.model, h=horizon, freq=freq, input_size=arguments.input_size, max_steps=arguments.steps,
        random_seed=arguments.seed, quantiles=quantiles, **options,
    )  # fmt: skip


def _test(
    console: Console, arguments: Arguments, ours: Forecaster, df: Frame, season: int, levels: list[float]
) -> None:
    """Prints the errors of the last windows, ours beside the last season and a linear forecast."""
    last = "last season" if season > 1 else "last value"
    others = [
        _forecaster(arguments, ours.h, ours.freq, "naive", season=season, alias=last),
        _forecaster(arguments, ours.h, ours.freq, "ridge", alias="linear"),
    ]
    with progress(console, f"testing {ours.alias}", arguments.steps) as on_step:
        both = ours.cross_validation(df, n_windows=arguments.test_windows, level=levels, on_step=on_step)
    for each in others:
        try:
            answer = each.cross_validation(df, n_windows=arguments.test_windows, level=levels)
        except ValueError as error:
            console.print(f"[yellow]left out of the table: {each.alias} ({error})[/yellow]")
            continue
        both = both.merge(answer.drop(columns=["y", "cutoff"]), on=["unique_id", "ds"])
    first = df["unique_id"].map(both.groupby("unique_id")["cutoff"].min())
    scored = ours.evaluate(both, df[df["ds"] <= first], season=season)
    table = Table(
        title=f"the last {arguments.test_windows} windows of {ours.h} steps, forecast from what lay before each"
    )
    table.add_column("")
    for name in scored:
        table.add_column(name, justify="right")
    for measure, row in scored.iterrows():
        best = None if str(measure).startswith("coverage") else row.min()
        cells = [f"[bold]{value:.4g}[/bold]" if value == best else f"{value:.4g}" for value in row]
        table.add_row(_measure(str(measure)), *cells)
    console.print(table)


def _measure(name: str) -> str:
    level = name.removeprefix("coverage_level")
    return f"held by the {level} % interval" if level != name else {"smape": "sMAPE, 0 to 1"}.get(name, name.upper())


def _range(counts: list[int]) -> str:
    return f"{counts[0]:,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
