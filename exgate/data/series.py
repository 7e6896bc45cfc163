"""The long series of the forecasting literature: their files, how each is split, windows, and the scale of all tables.

ETT, Weather, Exchange, ILI, Electricity, Traffic, Solar and PEMS are read from a path; none of them is downloaded.
"""

import csv
import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MONTH = 30 * 24  # hours
# Steps of a day, of data by the week those of a year, by the begin of the file's name.
SEASONS = {
    "etth": 24, "ettm": 96, "weather": 144, "exchange": 7, "national": 52, "ili": 52, "electricity": 24, "ecl": 24,
    "traffic": 24, "solar": 144, "pems": 288,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Record:
    """C series over the same T steps, standardised by mean and deviation of the training part.

    Args:
        name: of the file.
        values: (T, C) float64, standardised, NaN where missing.
        series: C names.
        mean, deviation: (C,), of the training part, in the file's units; a constant series has deviation 1.
        parts: (begin, end) of the steps that are forecast: "train", "validation", "test". Windows of the last two read
            what lies before their part.
    """

    name: str
    values: np.ndarray
    series: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    parts: dict[str, tuple[int, int]]

    def windows(self, part: str, steps: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """All windows of a part, none left out: read (N, steps, C) and forecast (N, horizon, C), views of the values.

        Raises:
            ValueError: the part is shorter than a window.
        """
        begin, end = self.parts[part]
        begin = begin if part == "train" else max(0, begin - steps)
        if end - begin < steps + horizon:
            raise ValueError(
                f"{self.name}: the {part} part has {end - begin} steps, too few for windows of {steps} + {horizon}. "
                "Read or forecast fewer."
            )
        both = np.lib.stride_tricks.sliding_window_view(self.values[begin:end], steps + horizon, axis=0)
        both = both.swapaxes(1, 2)
        return both[:, :steps], both[:, steps:]


def read(path: str | os.PathLike[str]) -> Record:
    """A file as the literature has it: .csv with a head and a date in front, .txt without either, .npz of PEMS.

    A csv or txt file may be compressed (.gz). The splits: ETT 12, 4 and 4 months of 30 days, PEMS 60/20/20, all others
    70/10/20.

    Raises:
        ValueError: the file is not there, of another kind, or has a value that is not a number.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"series: there is no file {path}. Give the path of a csv, txt or npz file.")
    plain = path.name.removesuffix(".gz")
    name, kind = plain.rpartition(".")[0], plain.rpartition(".")[2].lower()
    if kind == "npz":
        with np.load(path) as arrays:
            if "data" not in arrays:
                raise ValueError(f"series: {path} has no array 'data', but {', '.join(arrays)}; PEMS files have one.")
            values = np.asarray(arrays["data"], float)
        values = values if values.ndim == 2 else values[..., 0]
        series = tuple(str(place) for place in range(values.shape[1]))
    elif kind in ("csv", "txt"):
        series, values = _table(path, head=kind == "csv")
    else:
        raise ValueError(f"series: {path} is a .{kind} file; it should be .csv, .txt or .npz, or .csv.gz or .txt.gz.")
    parts = splits(name, len(values))
    train = values[slice(*parts["train"])]
    mean, deviation = np.nanmean(train, 0), np.nanstd(train, 0)
    deviation = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)  # 0 but for rounding is a constant's
    return Record(
        name=name, values=(values - mean) / deviation, series=series, mean=mean, deviation=deviation, parts=parts
    )


def splits(name: str, rows: int) -> dict[str, tuple[int, int]]:
    """(begin, end) of the training, validation and test part of a file of so many rows.

    Raises:
        ValueError: an ETT file has fewer rows than its 20 months.
    """
    if name.startswith("ETT"):
        per_hour = 4 if name.startswith("ETTm") else 1
        ends = [months * MONTH * per_hour for months in (12, 16, 20)]
        if ends[-1] > rows:
            raise ValueError(f"series: {name} has {rows} rows; its splits need {ends[-1]}. Is the file complete?")
    elif name.upper().startswith("PEMS"):
        ends = [int(0.6 * rows), int(0.8 * rows), rows]
    else:
        ends = [int(0.7 * rows), rows - int(0.2 * rows), rows]
    return {"train": (0, ends[0]), "validation": (ends[0], ends[1]), "test": (ends[1], ends[2])}


def wide(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """A csv file with a head and a row for each series, as M4 has it: its name, then its values, and nothing behind.

    Raises:
        ValueError: the file is not there, a value is no finite number, one is missing before the last, or a name is
            there twice.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"series: there is no file {path}. Give the path of a csv file, which may end in .gz.")
    found = {}
    for number, row in enumerate(_rows(path), start=1):
        cells = [cell.strip() for cell in row]
        if number == 1 or not any(cells):
            continue
        while cells[-1] == "":
            cells.pop()
        try:
            values = np.array([float(cell) for cell in cells[1:]])
        except ValueError as error:
            raise ValueError(f"series: {path}, line {number}: {error}. Behind the name there are numbers.") from None
        if cells[0] in found or not np.isfinite(values).all():
            odd = "is there twice" if cells[0] in found else "has values that are not finite"
            raise ValueError(f"series: {path}, line {number}: {cells[0]} {odd}.")
        found[cells[0]] = values
    return found


def season(name: str) -> int:
    """Steps of the season that a file of this name has: of a day, mostly; 1 where the name is not known."""
    return next((steps for begin, steps in SEASONS.items() if name.lower().startswith(begin)), 1)


def _table(path: Path, *, head: bool) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the columns and their numbers; with a head, the first column is a date."""
    rows = _rows(path)
    names = tuple(next(rows, [])[1:]) if head else ()
    first, values = int(head), []
    for number, row in enumerate(rows, start=1 + head):
        if not any(cell.strip() for cell in row):
            continue
        try:
            values.append([float(cell) if cell.strip() else np.nan for cell in row[first:]])
        except ValueError as error:
            raise ValueError(f"series: {path}, line {number}: {error}. All columns but the date are numbers.") from None
        if len(values[-1]) != len(values[0]) or (head and len(values[-1]) != len(names)):
            raise ValueError(f"series: {path}, line {number} has {len(row)} columns; the lines before have others.")
    if not values or not values[0]:
        raise ValueError(f"series: {path} has no numbers.")
    return names or tuple(str(place) for place in range(len(values[0]))), np.array(values)


def _rows(path: Path) -> Iterator[list[str]]:
    unzip = gzip.open if path.suffix == ".gz" else open
    with unzip(path, "rt", newline="") as stream:
        yield from csv.reader(stream)
