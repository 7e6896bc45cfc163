"""What traffic.py shows: numbers, and pictures of speeds, of the volume of a road, and of errors.

It is no program; traffic.py imports it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from exgate import figure, files
from exgate.forecast.frame import Frame, needed

HOUR = 12  # steps of five minutes
LEVELS = tuple(round(0.1 * n, 1) for n in range(1, 10))
SAYS = "says"  # the column of forecasts
COLOURS = {
    "exgate": "#0b6e99", "exgate, no covariates": "#5fa8d3", "last value": "#d1495b", "shared AR(12)": "#e08e45",
    "time-of-day mean": "#4f9d69", "usual speed": "#8d6a9f", "a week ago": "#d1495b", "ridge": "#e08e45",
}  # fmt: skip
OURS = COLOURS["exgate"]


def said(values: list[Any], digits: int) -> str:
    """A mean, and ± the deviation of several runs."""
    if any(value is None for value in values):
        return "-"
    mean = f"{np.mean(values):,.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def said_day(time: Any) -> str:
    """As 6 March 2012."""
    return f"{time.day} {time:%B %Y}"


def write(folder: Path, name: str, found: dict[str, Any], words: str, console: Console) -> None:
    """NAME.json, the table in it as Markdown."""
    path = files.write(folder / f"{name}.json", json.dumps(found | {"table": words}, indent=1) + "\n")
    console.print(f"numbers: {path}, after {found['seconds']:.0f} seconds")


def in_order(graph: np.ndarray) -> np.ndarray:
    """The sensors so that neighbours come near each other: by the second vector of the graph's Laplacian."""
    weights = graph - np.diag(np.diag(graph)) + 1e-3 / len(graph)
    return np.linalg.eigh(np.diag(weights.sum(1)) - weights)[1][:, 1].argsort()


def speeds(data: Any, truth: np.ndarray, answer: Any, scores: dict[str, Any], path: Path) -> Path:
    """Observed and forecast speeds in space and time, a sensor's day with its band, and errors by minutes ahead."""
    picture, lead = figure.empty(13, 9, "speeds"), 6
    grid = picture.add_gridspec(3, 2, width_ratios=(3, 2))
    times, order = data.times[data.moments + lead - 1], in_order(data.graph)
    moments = np.arange(len(times))
    for place, (name, values) in enumerate(
        {"observed": truth[..., lead - 1], "forecast 30 minutes before": answer[..., lead - 1, 2]}.items()
    ):
        axes = picture.add_subplot(grid[place, :])
        drawn = axes.imshow(
            values[:, order].T, aspect="auto", cmap="RdYlGn", vmin=10, vmax=70, interpolation="nearest",
            extent=(-0.5, len(times) - 0.5, len(order), 0),
        )  # fmt: skip
        axes.set_title(f"{name}, mph", loc="left", fontsize=11)
        axes.set_ylabel(f"{len(order)} sensors,\nneighbours together", fontsize=9)
        axes.set_yticks([])
        clock(axes, times)
        picture.colorbar(drawn, ax=axes, pad=0.01)
    varied = int(data.speeds[: data.learnt].std(0).argmax())
    axes = picture.add_subplot(grid[2, 0])
    axes.plot(moments, truth[:, varied, lead - 1], color="black", linewidth=1, label="observed")
    band = answer[:, varied, lead - 1]
    axes.plot(moments, band[:, 2], color=OURS, linewidth=1.3, label="forecast 30 minutes before")
    axes.fill_between(moments, band[:, 0], band[:, -1], color=OURS, alpha=0.2, linewidth=0, label="80 % band")
    axes.set_title(
        f"sensor {data.names[varied]}, whose speed varied most in what was learnt, mph", loc="left", fontsize=11
    )
    clock(axes, times)
    bare(axes)
    axes = picture.add_subplot(grid[2, 1])
    for name, runs in scores.items():
        mean = np.mean([run["mae"] for run in runs], 0)
        axes.plot(5 * np.arange(1, HOUR + 1), mean, color=COLOURS[name], marker="o", markersize=3, label=name)
    axes.set_ylim(0)
    axes.set_title("mean absolute error, mph", loc="left", fontsize=11)
    axes.set_xlabel("minutes ahead", fontsize=9)
    axes.set_xticks(range(0, 61, 15))
    bare(axes)
    return figure.save(picture, path)


def clock(axes: Any, times: Any) -> None:
    """Ticks every four hours, the day at midnight and in front."""
    places = np.flatnonzero((times.hour % 4 == 0) & (times.minute == 0))
    days = [number == 0 or times[place].hour == 0 for number, place in enumerate(places)]
    words = [
        f"{time:%H:%M}" + f"\n{time:%a} {time.day} {time:%b}" * day
        for time, day in zip(times[places], days, strict=True)
    ]
    axes.set_xticks(places, words)
    axes.set_xlim(-0.5, len(times) - 0.5)
    axes.tick_params(labelsize=8)


def bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)


def volume(frame: Frame, answers: dict[str, Frame], scores: dict[str, Any], path: Path) -> Path:
    """Two weeks of volume with forecast and band, around a holiday if there is one, and errors by hour of the day."""
    pandas = needed()
    tested, week = answers["exgate"], pandas.Timedelta(days=7)
    holidays = tested.loc[tested["holiday"] > 0, "ds"]
    middle = holidays.iloc[0].normalize() if len(holidays) else tested["ds"].max().normalize() - week
    begin = max(min(middle - week, tested["ds"].max() - 2 * week), tested["ds"].min())
    picture = figure.empty(13, 8, "volume")
    grid = picture.add_gridspec(2, 2, width_ratios=(3, 2), height_ratios=(1.1, 1))
    axes = picture.add_subplot(grid[0, :])
    for day in frame.loc[frame["holiday"] > 0, "ds"].dt.normalize().unique():
        axes.axvspan(day, day + week / 7, color="#e9c46a", alpha=0.35, linewidth=0, label="holiday")
    part = tested[(tested["ds"] >= begin) & (tested["ds"] < begin + 2 * week)]
    past = answers["a week ago"].loc[lambda rows: rows["ds"].isin(part["ds"])]
    axes.plot(past["ds"], past[SAYS], color=COLOURS["a week ago"], linewidth=0.9, linestyle=":", label="a week ago")
    axes.fill_between(
        part["ds"], part[f"{SAYS}_ql0.1"], part[f"{SAYS}_ql0.9"], color=OURS, alpha=0.25, linewidth=0,
        label="80 % band",
    )  # fmt: skip
    axes.plot(part["ds"], part[SAYS], color=OURS, linewidth=1.3, label="forecast at midnight")
    axes.plot(part["ds"], part["y"], color="black", linewidth=1, label="observed")
    axes.set_xlim(begin, begin + 2 * week)
    days = pandas.date_range(begin.normalize(), periods=15, freq="D")
    axes.set_xticks(days, [f"{day:%a}\n{day.day} {day:%b}" for day in days])
    axes.set_title("vehicles an hour", loc="left", fontsize=11)
    axes.set_ylim(0)
    bare(axes)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(
        handles.values(), handles, frameon=False, fontsize=8, ncol=5, loc="upper left", bbox_to_anchor=(0, -0.12)
    )
    axes = picture.add_subplot(grid[1, 0])
    for name, runs in scores.items():
        axes.plot(np.mean([run["hours"] for run in runs], 0), color=COLOURS[name], marker="o", markersize=3, label=name)
    axes.set_xticks(range(0, 24, 3), [f"{hour}:00" for hour in range(0, 24, 3)])
    axes.set_ylim(0)
    axes.set_title("mean absolute error by hour of the day, vehicles an hour", loc="left", fontsize=11)
    bare(axes)
    axes = picture.add_subplot(grid[1, 1])
    axes.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
    for name, rows in answers.items():
        below = [100 * (rows["y"] <= rows[f"{SAYS}_ql{level:g}"]).mean() for level in LEVELS]
        axes.plot(100 * np.array(LEVELS), below, color=COLOURS[name], marker="o", markersize=3, label=name)
    axes.set_title("% of hours below the forecast quantile, by its level", loc="left", fontsize=11)
    bare(axes)
    return figure.save(picture, path)
