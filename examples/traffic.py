"""Traffic: speeds of many sensors for the next hour, and the volume of one road for the next day, with intervals.

    python examples/traffic.py sensors los_speed.csv.gz los_adj.csv
    python examples/traffic.py road Metro_Interstate_Traffic_Volume.csv.gz

`sensors` takes a table of speeds every five minutes, a column for each sensor, and the weights between sensors, without
a head (METR-LA, a week of it in github.com/lehaifeng/T-GCN). 70 % is learnt from, 10 % says when to stop, and from each
moment of the last 20 % the next hour is forecast. `road` takes hourly volume with weather and holidays (UCI 492), and
forecasts each of the last 56 days at midnight. Both put simple forecasts beside it, and write numbers (JSON) and a
picture (PNG) to --out. It needs the extra: pip install 'exgate[forecast]'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import traffic_show as show
from rich.console import Console
from torch import Tensor
from traffic_show import HOUR, LEVELS, SAYS

from exgate import figure
from exgate.cli import table
from exgate.forecast import Forecaster, fit
from exgate.forecast.fit import Budget
from exgate.forecast.frame import Frame, needed
from exgate.forecast.windows import Series, Units
from exgate.layers.series import Scale
from exgate.models.patch_xlstm import Config, Covariates, PatchState, PatchXLSTM

# Sensors: steps of five minutes.
DAY, READ = 288, 72
AHEAD = {"15 min": 3, "30 min": 6, "60 min": 12}
BAND = (0.1, 0.25, 0.5, 0.75, 0.9)
KINDS = {"mae": ("MAE", 2), "rmse": ("RMSE", 2), "mape": ("MAPE, %", 1)}  # titles and digits
AROUND = 3  # steps on each side over which the usual speed is smoothed
# Road: hours.
BACK, WEEK, LONGEST = 56, 168, 48  # days that are forecast; hours of a week; hours without a count that are bridged
WEATHER = ("temperature", "rain", "snow", "clouds")


class Together(PatchXLSTM):
    """All windows on one scale, in place of each its own: how fast traffic is, and what an error costs, are the same.

    It is for numbers that are standardised together (`Budget.units`).
    """

    def forward(
        self, x: Tensor, state: PatchState | None = None, known: Covariates | None = None
    ) -> tuple[Tensor, PatchState]:
        """As its parent's, which then has nothing to standardise."""
        one = x.new_ones(len(x), 1, x.shape[2])
        return super().forward(x, PatchState(Scale(0 * one, one), None) if state is None else state, known)


@dataclass(frozen=True)
class Sensors:
    """Speeds (T, S) in the file's units, the graph's weights (S, S), where learning and validation end, T times."""

    names: list[str]
    speeds: np.ndarray
    graph: np.ndarray
    learnt: int
    held: int
    times: Any

    @property
    def weekend(self) -> np.ndarray:
        """Of each step, whether it is on a Saturday or Sunday."""
        return self.times.day_of_week.to_numpy() >= 5

    @property
    def moments(self) -> np.ndarray:
        """Each one of the test part whose next hour is known."""
        return np.arange(self.held, len(self.speeds) - HOUR + 1)

    @property
    def units(self) -> Units:
        """The mean and the deviation of all that is learnt from."""
        part = self.speeds[: self.learnt]
        return Units(np.full((1, 1, 1), part.mean()), np.full((1, 1, 1), part.std()))


def read_sensors(speeds: Path, graph: Path, start: str) -> Sensors:
    """The two files.

    Raises:
        ValueError: the tables do not belong together, have holes, or are shorter than five days.
    """
    pandas = needed()
    frame, weights = pandas.read_csv(speeds), pandas.read_csv(graph, header=None).to_numpy(float)
    values, count = frame.to_numpy(float), frame.shape[1]
    if weights.shape != (count, count):
        raise ValueError(
            f"{graph} is a table of {weights.shape[0]} x {weights.shape[1]}, and {speeds} has {count} sensors. Give "
            "the weights between them, without a head."
        )
    if np.isnan(values).any():
        raise ValueError(f"{speeds} lacks {np.isnan(values).sum()} values. Fill them first, or leave sensors out.")
    steps = len(values)
    if steps < 5 * DAY:
        raise ValueError(f"{speeds} has {steps} steps of five minutes; it should have five days, {5 * DAY}, at least.")
    times = pandas.date_range(start, periods=steps, freq="5min")
    return Sensors([str(name) for name in frame], values, weights, int(0.7 * steps), int(0.8 * steps), times)


def usual(data: Sensors) -> np.ndarray:
    """The speed (T, S) of each sensor at this time of day on the other learnt days of its kind (working or weekend).

    A day's own speeds are left out, for of the days to be forecast they are not known either. Where no other day of its
    kind was learnt it is the mean of all others, then that of the sensor.
    """
    steps, sensors = data.speeds.shape
    days = -(-steps // DAY)
    table = np.full((days * DAY, sensors), np.nan)
    table[: data.learnt] = data.speeds[: data.learnt]
    table = table.reshape(days, DAY, sensors)
    weekend, answer = data.weekend[::DAY], np.empty((days, DAY, sensors))
    for day in range(days):
        others = np.arange(days) != day
        mean = np.nanmean(data.speeds[: data.learnt], 0) * np.ones((DAY, 1))
        for part in (table[others], table[others & (weekend == weekend[day])]):
            count = (~np.isnan(part)).sum(0)
            mean = np.where(count > 0, np.nansum(part, 0) / np.maximum(count, 1), mean)
        wide = np.concatenate([mean[-AROUND:], mean, mean[:AROUND]])
        answer[day] = np.lib.stride_tricks.sliding_window_view(wide, 2 * AROUND + 1, 0).mean(-1)
    return answer.reshape(-1, sensors)[:steps]


def laid(data: Sensors, end: int) -> Series:
    """The first `end` steps as a network reads them: a row for each sensor.

    Known up to now: the neighbours' mean speed, by the graph's weights. Known ahead: the usual speed, the time of day
    as waves of a day and of half a day, and whether it is a weekend. Which sensor it is: a category.
    """
    count, weights = len(data.names), data.graph - np.diag(np.diag(data.graph))
    alone = weights.sum(1) == 0
    weights = weights + np.diag(alone.astype(float))  # who has no neighbours is his own
    around = data.speeds @ (weights / weights.sum(1, keepdims=True)).T
    middle, spread = (float(part.item()) for part in data.units)
    angle = 2 * np.pi * np.arange(len(data.speeds)) / DAY
    clock = [np.sin(angle), np.cos(angle), np.sin(2 * angle), np.cos(2 * angle), data.weekend.astype(float)]
    shared, own = np.stack(clock, 1)[:end], (usual(data) - middle) / spread
    return Series(
        values=[data.speeds[:end, [place]] for place in range(count)],
        past=[(around[:end, [place]] - middle) / spread for place in range(count)],
        future=[np.concatenate([own[:end, [place]], shared], 1) for place in range(count)],
        categories=1 + np.arange(count)[:, None],
    )


def learn(data: Sensors, seed: int, steps: int, on_step: Callable[[int, float], None]) -> PatchXLSTM:
    """A network that has seen nothing of the test part."""
    config = Config(
        patch=HOUR, quantiles=BAND, past=1, future=6, categories=(1 + len(data.names),), dim=64, blocks=2,
        dropout=0.3, memory=READ // HOUR,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Together(config)
    model.reset_parameters()
    budget = Budget(steps=steps, batch=128, rate=4e-3, rows=2048, seed=seed, units=data.units)
    fit.train(
        model, laid(data, data.held), steps=READ, horizon=HOUR, validation=data.held - data.learnt, budget=budget,
        on_step=on_step,
    )  # fmt: skip
    return model.eval()


@torch.inference_mode()
def forecasts(model: PatchXLSTM, data: Sensors) -> np.ndarray:
    """Quantiles (M, S, H, Q) of the hour after each moment, in the file's units."""
    ends, count = data.moments, len(data.names)
    places = np.stack([np.tile(np.arange(count), len(ends)), np.repeat(ends, count)], 1)
    parts = []
    for rows in laid(data, len(data.speeds)).batches(places, 2048, READ, HOUR, units=data.units):
        raw = model.forecast(rows.read, HOUR, None, rows.known)[0][:, :, 0]
        parts.append(rows.units.invert(raw.double().numpy()))
    return np.concatenate(parts).reshape(len(ends), count, HOUR, -1)


def floors(data: Sensors) -> dict[str, np.ndarray]:
    """Forecasts (M, S, H) that ask for no network: what they learn is learnt from the learnt part."""
    windows = np.lib.stride_tricks.sliding_window_view(data.speeds, 2 * HOUR, 0)  # (T - 2 H + 1, S, 2 H)
    known = windows[: data.learnt - 2 * HOUR + 1].reshape(-1, 2 * HOUR)
    test = windows[data.moments - HOUR][..., :HOUR]
    weight = np.linalg.lstsq(np.pad(known[:, :HOUR], ((0, 0), (0, 1)), constant_values=1), known[:, HOUR:])[0]
    slot = np.arange(len(data.speeds)) % DAY
    means = np.stack([data.speeds[: data.learnt][slot[: data.learnt] == place].mean(0) for place in range(DAY)])
    ahead = data.moments[:, None] + np.arange(HOUR)
    return {
        "last value": np.repeat(test[..., -1:], HOUR, 2),
        "shared AR(12)": test @ weight[:HOUR] + weight[HOUR],
        "time-of-day mean": means[slot[ahead]].transpose(0, 2, 1),
        "usual speed": usual(data)[ahead].transpose(0, 2, 1),
    }


def errors(truth: np.ndarray, answer: np.ndarray) -> dict[str, list[float]]:
    """By step of the hour: MAE and RMSE in the file's units, MAPE in percent, zeros left out."""
    error, moving = answer - truth, truth != 0
    share = np.where(moving, np.abs(error) / np.where(moving, truth, 1), 0).sum((0, 1)) / moving.sum((0, 1))
    return {
        "mae": np.abs(error).mean((0, 1)).tolist(), "rmse": np.sqrt(np.square(error).mean((0, 1))).tolist(),
        "mape": (100 * share).tolist(),
    }  # fmt: skip


def sensors(options: argparse.Namespace, console: Console) -> None:
    """Speeds of many sensors for the next hour."""
    data = read_sensors(options.speeds, options.graph, options.start)
    steps, started = options.steps or 1000, time.monotonic()
    truth = np.lib.stride_tricks.sliding_window_view(data.speeds, HOUR, 0)[data.moments]
    console.print(
        f"{len(data.names)} sensors, {data.learnt:,} steps of five minutes to learn from, {data.held - data.learnt:,} "
        f"to say when to stop; {len(truth):,} moments to forecast from. Of each sensor is known up to now: six hours "
        "of its speed and of its neighbours' mean speed; ahead: its usual speed, time of day, weekends."
    )
    scores = {name: [errors(truth, answer)] for name, answer in floors(data).items()}
    scores["exgate"], first, inside = [], None, []
    for seed in range(options.seeds):
        with table.progress(console, f"seed {seed}", steps) as on_step:
            model = learn(data, seed, steps, on_step)
        answer = forecasts(model, data)
        first = answer if first is None else first
        scores["exgate"].append(errors(truth, answer[..., BAND.index(0.5)]))
        inside.append(float(((truth >= answer[..., 0]) & (truth <= answer[..., -1])).mean()))
    rows = [["", *AHEAD]]
    for measure, (title, digits) in KINDS.items():
        for name, runs in scores.items():
            cells = [show.said([run[measure][step - 1] for run in runs], digits) for step in AHEAD.values()]
            rows.append([f"{title}: {name}", *cells])
    caption = f"mean of {options.seeds} seeds ± deviation; {np.mean(inside):.1%} of speeds within the 80 % band"
    table.show(rows, "speeds ahead", caption, console)
    found = {"seeds": options.seeds, "steps": steps, "scores": scores, "coverage_80": inside}
    found["seconds"] = round(time.monotonic() - started, 1)
    show.write(options.out, "sensors", found, table.markdown(rows, caption), console)
    figure.show(lambda path: show.speeds(data, truth, first, scores, path), options.out / "sensors.png")


def read_road(path: Path) -> tuple[Frame, list[str]]:
    """A row for every hour, and what was done to get there: volume, weather, and whether it is a day off.

    Raises:
        ValueError: columns of the file are not there.
    """
    pandas = needed()
    raw = pandas.read_csv(path)
    columns = ["holiday", "temp", "rain_1h", "snow_1h", "clouds_all", "date_time", "traffic_volume"]
    if absent := [name for name in columns if name not in raw]:
        raise ValueError(f"{path} has no column {absent[0]!r}; it should have {', '.join(columns)}.")
    raw["date_time"] = pandas.to_datetime(raw["date_time"])
    marks = raw[raw["holiday"].notna() & (raw["holiday"] != "None") & (raw["holiday"] != "State Fair")]
    off = marks["date_time"].dt.normalize().unique()
    once = raw.drop_duplicates("date_time").sort_values("date_time").set_index("date_time")
    gaps = once.index.to_series().diff() > pandas.Timedelta(hours=LONGEST)
    rows = once[once.index[gaps][-1] :] if gaps.any() else once
    frame = rows.reindex(pandas.date_range(rows.index[0], rows.index[-1], freq="h", name="ds"))
    cold, wet = frame["temp"] < 150, frame["rain_1h"] > 300
    day = frame.index.normalize()
    answer = pandas.DataFrame({
        "unique_id": "road", "ds": frame.index, "y": frame["traffic_volume"].to_numpy(float),
        "temperature": frame["temp"].mask(cold).to_numpy(float) - 273.15,
        "rain": np.log1p(frame["rain_1h"].mask(wet).to_numpy(float)),
        "snow": np.where(frame["snow_1h"].isna(), np.nan, frame["snow_1h"] > 0),
        "clouds": frame["clouds_all"].to_numpy(float),
    })  # fmt: skip
    hours = frame.index.hour.to_numpy() * 2 * np.pi / 24
    for name, angle in {"hour": hours, "half": 2 * hours}.items():
        answer[f"{name}_sin"], answer[f"{name}_cos"] = np.sin(angle), np.cos(angle)
    for number, name in enumerate(("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")):
        answer[name] = (frame.index.day_of_week == number).astype(float)
    for name, away in {"holiday": 0, "before_holiday": 1, "after_holiday": -1}.items():
        answer[name] = (day + pandas.Timedelta(days=away)).isin(off).astype(float)
    return answer, [
        f"{len(raw) - len(once):,} of {len(raw):,} rows repeat an hour that was there, with the same count and mostly "
        "another weather: the first of each hour is kept",
        f"{len(once) - len(rows):,} hours before the last gap of more than {LONGEST} hours are left out",
        f"from {show.said_day(rows.index[0])} on {len(frame) - len(rows):,} of {len(frame):,} hours are not "
        "in the file: they stay missing",
        f"{int(cold.sum())} temperatures of 0 K and {int(wet.sum())} hours of more than 300 mm of rain are missing too",
        f"a holiday is marked at midnight alone: here at all hours of its day ({int(answer['holiday'].sum()) // 24} "
        "days; the State Fair is none)",
        "known ahead: hour, day of the week, holidays and the days around them; known up to now: temperature, rain, "
        "snow, clouds (a real service would have a weather forecast)",
    ]


def contenders(frame: Frame, steps: int) -> dict[str, Callable[[int], Forecaster]]:
    """By name: an unfitted forecaster for a seed."""
    futr = [name for name in frame if name not in ("unique_id", "ds", "y", *WEATHER)]
    common: dict[str, Any] = {"alias": SAYS, "h": 24, "freq": "h", "input_size": 2 * WEEK}

    def network(seed: int, **covariates: Any) -> Forecaster:
        return Forecaster(
            **common, **covariates, max_steps=steps, batch_size=64, random_seed=seed, dim=64, pattern="m", dropout=0.2,
            patch=24, intervals="quantiles",
        )  # fmt: skip

    return {
        "a week ago": lambda seed: Forecaster("naive", **common, season=WEEK),
        "ridge": lambda seed: Forecaster("ridge", **common),
        "exgate, no covariates": network,
        "exgate": lambda seed: network(seed, futr_exog_list=futr, hist_exog_list=WEATHER),
    }


def measured(tested: Frame, off: np.ndarray) -> dict[str, Any]:
    """MAE and RMSE in vehicles, scaled CRPS, the share within the 80 % band, and MAE on holidays and by hour of day.

    The CRPS is twice the mean quantile loss over nine levels, over the mean volume, in percent.
    """
    truth, said = tested["y"].to_numpy(), tested[[f"{SAYS}_ql{level:g}" for level in LEVELS]].to_numpy()
    error, above = np.abs(tested[SAYS].to_numpy() - truth), truth[:, None] - said
    levels, hours = np.array(LEVELS), tested["ds"].dt.hour.to_numpy()
    return {
        "mae": float(error.mean()), "rmse": float(np.sqrt(np.square(error).mean())),
        "crps": float(200 * np.maximum(levels * above, (levels - 1) * above).mean() / truth.mean()),
        "inside": float(100 * ((truth >= said[:, 0]) & (truth <= said[:, -1])).mean()),
        "holidays": float(error[off].mean()) if off.any() else None,
        "hours": [float(error[hours == hour].mean()) for hour in range(24)],
    }  # fmt: skip


def road(options: argparse.Namespace, console: Console) -> None:
    """The volume of one road for the next day."""
    frame, notes = read_road(options.volume)
    steps, back, started = options.steps or 400, options.days, time.monotonic()
    for note in notes:
        console.print(f"- {note}")
    scores, answers = {}, {}
    for name, build in contenders(frame, steps).items():
        scores[name] = []
        for seed in range(options.seeds if name.startswith("exgate") else 1):
            forecaster = build(seed)
            with table.progress(console, f"{name}, seed {seed}", steps) as on_step:
                tested = forecaster.cross_validation(
                    frame, n_windows=back, val_size=24 * back, quantiles=LEVELS, on_step=on_step
                )
            tested = tested[tested["y"].notna()].merge(frame[["ds", "holiday"]], on="ds")
            scores[name].append(measured(tested, tested["holiday"].to_numpy() > 0))
            answers.setdefault(name, tested)
    heads = {"mae": "MAE", "rmse": "RMSE", "holidays": "holiday MAE", "crps": "CRPS %", "inside": "80 % band"}
    rows = [["vehicles an hour", *heads.values()]]
    for name, runs in scores.items():
        digits = {"crps": 2, "inside": 1}
        rows.append([name, *(show.said([run[kind] for run in runs], digits.get(kind, 0)) for kind in heads)])
    one = answers["exgate"]
    caption = (
        f"the next 24 hours at midnight, {back} days to {show.said_day(one['ds'].max())} ({len(one):,} hours, "
        f"{int(one['holiday'].sum())} of holidays); mean of {options.seeds} seeds ± deviation"
    )
    table.show(rows, "volume of the road", caption, console)
    found = {"seeds": options.seeds, "steps": steps, "days": back, "notes": notes, "scores": scores}
    found["seconds"] = round(time.monotonic() - started, 1)
    show.write(options.out, "road", found, table.markdown(rows, caption), console)
    figure.show(lambda path: show.volume(frame, answers, scores, path), options.out / "road.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run, names in ((sensors, ("speeds", "graph")), (road, ("volume",))):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        for name in names:
            command.add_argument(name, type=Path, metavar=name.upper())
        command.add_argument("--seeds", type=int, default=3, help="runs, the mean of which is said")
        command.add_argument("--steps", type=int, help="of training at most")
        command.add_argument("--out", type=Path, default=Path("runs", "traffic"), help="where numbers and picture go")
        command.set_defaults(run=run)
        if run is sensors:
            command.add_argument("--start", default="2012-03-01", help="the day of the first step")
        else:
            command.add_argument("--days", type=int, default=BACK, help="that are forecast, the last ones")
    options = parser.parse_args()
    if options.seeds < 1:
        raise SystemExit(f"traffic: --seeds is {options.seeds}; it should be at least 1.")
    try:
        options.run(options, Console(highlight=False, soft_wrap=True))
    except (OSError, ImportError, ValueError) as error:
        raise SystemExit(f"traffic: {error}") from error


if __name__ == "__main__":
    main()
