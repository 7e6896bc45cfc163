"""`exgate evaluate m4`: series of the M4 competition, forecast once from their ends; no command itself.

The measures are the competition's (Makridakis et al. 2020): sMAPE in percent, MASE, and OWA, the mean of both over
those of Naive2 (the last value, seasonally adjusted). Coverage is the share of values inside of an interval.
"""

import hashlib
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from exgate import figure, hint
from exgate.cli import machine, suite, table
from exgate.data import series
from exgate.evaluate import cache, picture
from exgate.evaluate.search import spread
from exgate.forecast import Forecaster, backtest
from exgate.forecast.frame import Frame, needed

LEVELS = (80, 95)
# Arguments of `Forecaster`; "naive" repeats the last season.
MODELS: dict[str, dict[str, Any]] = {
    "patch_xlstm": {"learning_rate": 1e-3, "batch_size": 64, "dropout": 0.1},
    "dlinear": {"model": "dlinear", "learning_rate": 1e-3, "batch_size": 64},
    "ridge": {"model": "ridge"},
    "last season": {"model": "naive"},
    "AutoETS": {"model": "AutoETS"},
}
LEARNT = ("patch_xlstm", "dlinear")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    train: Annotated[Positional[Path], arg(metavar="TRAIN")]
    """A csv file with a row for each series: its name, then its values (m4-hourly-train.csv; may end in .gz)."""
    test: Annotated[Positional[Path], arg(metavar="TEST")]
    """The same for what follows."""
    season: Annotated[int, arg(metavar="N")] = 24
    """Steps of a season."""
    input_size: Annotated[int | None, arg(metavar="N")] = None
    """Steps that are read before a forecast; two weeks of hours, seven horizons."""
    models: Annotated[str | None, arg(metavar="A,B,...")] = None
    """Which models; all, and AutoETS where statsforecast is installed (the extra stats)."""
    steps: int = 1000
    """Training steps."""
    seeds: int = 3
    """Runs of each model that is learnt."""
    processes: int = 1
    """Runs at a time, one thread each."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs", "evaluate", "m4")
    """Where table.md, results.json, picture.png and runs.jsonl go. Stopped, it goes on."""


def evaluate(argv: list[str]) -> int:
    """Runs `exgate evaluate m4` and returns its exit status."""
    words = f"{__doc__}\nexample:\n  exgate evaluate m4 m4-hourly-train.csv m4-hourly-test.csv"
    arguments = tyro.cli(Arguments, prog="exgate evaluate m4", description=words, args=argv)
    console = Console(soft_wrap=True, highlight=False)
    models = suite.listed(arguments.models) if arguments.models is not None else _usable(console)
    for name in models:
        if name not in MODELS:
            raise ValueError(f"evaluate: {hint.unknown(name, MODELS, what='model')}")
    suite.whole(
        seeds=arguments.seeds, steps=arguments.steps, season=arguments.season, processes=arguments.processes,
        input_size=arguments.input_size,
    )  # fmt: skip
    before, after = read(arguments.train, arguments.test)
    data = hashlib.sha256(arguments.train.read_bytes() + arguments.test.read_bytes()).hexdigest()[:12]
    horizon = len(next(iter(after.values())))
    configurations = [
        {
            "model": name, "file": arguments.train.name, "checksum": data, "horizon": horizon, "seed": seed,
            "season": arguments.season, "input_size": arguments.input_size or 7 * horizon,
            "steps": arguments.steps if name in LEARNT else 0,
        }
        for name in models
        for seed in range(arguments.seeds if name in LEARNT else 1)
    ]  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    processes = suite.fitting(arguments.processes)
    one = partial(compute, train=arguments.train, test=arguments.test)
    with machine.threads(1):
        runs = list(suite.computed(arguments.out / "runs.jsonl", processes, len(configurations), one, configurations))
    adjusted = naive2(before, after, arguments.season)
    found = {name: _summary([result for of, result in runs if of["model"] == name], adjusted) for name in models}
    caption = (
        f"{arguments.train.name}: {len(before)} series, {horizon} steps after each; mean ± deviation of seeds; Naive2 "
        f"has sMAPE {adjusted['smape']:.3f}, MASE {adjusted['mase']:.3f}"
    )
    rows = _rows(found)
    table.show(rows, "M4", caption, console)
    cache.write(arguments.out / "table.md", table.markdown(rows, caption))
    cache.write(arguments.out / "results.json", {"naive2": adjusted, "models": found})
    print(f"numbers: {arguments.out / 'results.json'}")
    bars = {
        measure: {name: ([0], [of[measure]["mean"]]) for name, of in found.items()}
        for measure in ("sMAPE", "MASE", "OWA")
    }
    figure.show(lambda path: picture.curves(bars, path, x="", y=""), arguments.out / "picture.png")
    return 0


def read(train: Path, test: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The values of each series, and what follows them.

    Raises:
        ValueError: the files do not hold the same series, or horizons differ.
    """
    before, after = series.wide(train), series.wide(test)
    odd = sorted(before.keys() ^ after.keys())
    if odd or len({len(values) for values in after.values()}) != 1:
        raise ValueError(
            f"m4: {train.name} and {test.name} should hold the same series, and as many steps of each in the second; "
            + (f"{odd[0]} is in one alone." if odd else "they have different numbers of steps.")
        )
    return before, after


def compute(configuration: dict[str, Any], *, train: Path, test: Path) -> dict[str, Any]:
    """One model, fitted and scored: measures and seconds."""
    before, after = read(train, test)
    df = _long(before)
    start = time.monotonic()
    answer = _forecast(configuration, df)
    seconds = time.monotonic() - start
    scored = measures(answer, before, after, configuration["season"])
    return scored | {"seconds": seconds}


def measures(answer: Frame, before: dict[str, np.ndarray], after: dict[str, np.ndarray], season: int) -> dict[str, Any]:
    """sMAPE in percent, MASE, and the share of values inside of each interval there is; means over series.

    Args:
        answer: `unique_id`, `ds`, the forecasts of one model, and its intervals.
    Raises:
        ValueError: the errors of a series have no scale.
    """
    flat = [key for key, each in before.items() if len(each) <= season or (each[season:] == each[:-season]).all()]
    if flat:
        raise ValueError(
            f"m4: {flat[0]} is no longer than a season of {season} steps, or repeats it exactly: MASE has no scale. "
            "Give another --season, or leave the series out."
        )
    both = answer.merge(_long(after, {key: len(each) for key, each in before.items()}), on=["unique_id", "ds"])
    scored = backtest.evaluate(both, _long(before), season=season).iloc[:, 0]
    inside = {
        str(level): float(scored[f"coverage_level{level}"]) for level in LEVELS if f"coverage_level{level}" in scored
    }
    return {"smape": 200 * float(scored["smape"]), "mase": float(scored["mase"]), "coverage": inside}


def naive2(before: dict[str, np.ndarray], after: dict[str, np.ndarray], season: int) -> dict[str, Any]:
    """The measures of Naive2: the last value of a series whose seasons are divided out, where a test finds some."""
    points = {}
    for key, values in before.items():
        indices = _seasons(values, season)
        ahead = len(values) + np.arange(len(after[key]))
        points[key] = values[-1] / indices[(len(values) - 1) % season] * indices[ahead % season]
    answer = _long(points, {key: len(values) for key, values in before.items()}).rename(columns={"y": "Naive2"})
    return measures(answer, before, after, season)


def _seasons(values: np.ndarray, season: int) -> np.ndarray:
    """Factors of each place in a season, by classical decomposition; ones where the test of the competition finds none.

    The test: the autocorrelation at one season is beyond 1.645 sqrt((1 + 2 sum of the squares before it) / n).
    """
    ones = np.ones(season)
    if season == 1 or len(values) < 3 * season:
        return ones
    centred = values - values.mean()
    lags = np.array([(centred[lag:] * centred[:-lag]).sum() for lag in range(1, season + 1)]) / (centred @ centred)
    if abs(lags[-1]) <= 1.645 * np.sqrt((1 + 2 * np.square(lags[:-1]).sum()) / len(values)):
        return ones
    weights = np.ones(season) if season % 2 else np.r_[0.5, np.ones(season - 1), 0.5]
    trend = np.convolve(values, weights / season, "valid")
    first = (len(weights) - 1) // 2
    ratios = values[first : first + len(trend)] / trend
    places = (first + np.arange(len(trend))) % season
    factors = np.array([ratios[places == place].mean() for place in range(season)])
    return factors / factors.mean()


def _forecast(configuration: dict[str, Any], df: Frame) -> Frame:
    """The answer of a model, with its intervals."""
    horizon, name = configuration["horizon"], configuration["model"]
    options = dict(MODELS[name])
    if name == "AutoETS":
        from statsforecast import StatsForecast  # pyright: ignore[reportMissingImports]
        from statsforecast.models import AutoETS  # pyright: ignore[reportMissingImports]

        made = StatsForecast(models=[AutoETS(season_length=configuration["season"])], freq=1)
        answer = made.forecast(df=df, h=horizon, level=list(LEVELS))
        return answer if "unique_id" in answer else answer.reset_index()
    model = options.pop("model", name)
    if model == "naive":
        options["season"] = configuration["season"]
    made = Forecaster(
        model, h=horizon, freq=1, input_size=configuration["input_size"], max_steps=configuration["steps"],
        random_seed=configuration["seed"], **options,
    )  # fmt: skip
    return made.fit(df, val_size=2 * horizon).predict(level=LEVELS)


def _usable(console: Console) -> list[str]:
    try:
        import statsforecast  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        console.print("AutoETS is left out: statsforecast is not installed (pip install 'exgate[stats]').")
        return [name for name in MODELS if name != "AutoETS"]
    return list(MODELS)


def _long(values: dict[str, np.ndarray], begins: dict[str, int] | None = None) -> Frame:
    """A row for each value, whose steps are counted from 1, or from behind so many."""
    pandas, begins = needed(), begins or dict.fromkeys(values, 0)
    parts = [
        pandas.DataFrame({"unique_id": key, "ds": begins[key] + 1 + np.arange(len(each)), "y": each})
        for key, each in values.items()
    ]
    return pandas.concat(parts, ignore_index=True)


def _summary(results: list[dict[str, Any]], adjusted: dict[str, float]) -> dict[str, Any]:
    owa = [(each["smape"] / adjusted["smape"] + each["mase"] / adjusted["mase"]) / 2 for each in results]
    return {
        "sMAPE": spread([each["smape"] for each in results]), "MASE": spread([each["mase"] for each in results]),
        "OWA": spread(owa), "seeds": len(results), "seconds": statistics.fmean(each["seconds"] for each in results),
        "coverage": {str(level): spread([each["coverage"][str(level)] for each in results]) for level in LEVELS},
    }  # fmt: skip


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = [["model", "sMAPE", "MASE", "OWA", *(f"inside of {level} %" for level in LEVELS), "seconds"]]
    for name, of in found.items():
        cells = [
            f"{value['mean']:.3f}" + (f" ± {value['spread']:.3f}" if of["seeds"] > 1 else "")
            for value in (of["sMAPE"], of["MASE"], of["OWA"], *of["coverage"].values())
        ]
        rows.append([name, *cells, f"{of['seconds']:,.0f}"])
    return rows
