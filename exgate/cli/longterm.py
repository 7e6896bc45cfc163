"""`exgate evaluate forecast`: long horizons on files of the literature, by one protocol; no command itself."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from exgate import figure, hint
from exgate.cli import machine, suite, table
from exgate.data import series
from exgate.evaluate import cache, picture
from exgate.evaluate.search import spread
from exgate.forecast import longterm
from exgate.forecast.longterm import CONTENDERS, HORIZONS

MEASURES = ("mse", "mae")
LEARNT = {name for name, contender in CONTENDERS.items() if contender.model not in ("ridge", "naive")}
LINEAR = "ridge"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ...")]
    """ETT, Weather, Exchange, ILI, Electricity, Traffic, Solar or PEMS: .csv with a head and a date in front, .txt
    without either, .npz; .gz of the first two. Their splits go by their names."""
    models: Annotated[str | None, arg(metavar="A,B,...")] = None
    """Which models; all."""
    horizons: Annotated[str, arg(metavar="A,B,...")] = ",".join(map(str, HORIZONS))
    """Steps that are forecast."""
    season: Annotated[int | None, arg(metavar="N")] = None
    """Steps of the season that the naive forecast repeats; a day, for files whose name is known."""
    seeds: int = 3
    """Runs of what validation chose; the choice itself is made with the first."""
    steps: Annotated[int | None, arg(metavar="N")] = None
    """Training steps, in place of each model's own."""
    processes: int = 1
    """Runs at a time, one thread each."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs", "evaluate", "forecast")
    """Where table.md, results.json, picture.png and runs.jsonl go. Stopped, it goes on."""


def evaluate(argv: list[str]) -> int:
    """Runs `exgate evaluate forecast` and returns its exit status."""
    help_text = (
        f"{longterm.__doc__}\nThe models, and of what validation chooses for each file:\n"
        + "\n".join(f"  {name:22} {', '.join(map(_said, contender.choices))}" for name, contender in CONTENDERS.items())
        + "\n\nexample:\n  exgate evaluate forecast ETTh1.csv ETTm1.csv --processes 2"
    )
    arguments = tyro.cli(Arguments, prog="exgate evaluate forecast", description=help_text, args=argv)
    models = list(CONTENDERS) if arguments.models is None else suite.listed(arguments.models)
    for name in models:
        if name not in CONTENDERS:
            raise ValueError(f"evaluate: {hint.unknown(name, CONTENDERS, what='model')}")
    words = suite.listed(arguments.horizons)
    if not all(word.isdecimal() and int(word) for word in words):
        raise ValueError(f"evaluate: --horizons is {arguments.horizons}; it should be whole numbers, as 96,192.")
    horizons = sorted(set(map(int, words)))
    if not arguments.files:
        raise ValueError("evaluate: give files of time series. See --help.")
    suite.whole(seeds=arguments.seeds, steps=arguments.steps, season=arguments.season, processes=arguments.processes)
    arguments.out.mkdir(parents=True, exist_ok=True)
    console, tables, panels = Console(soft_wrap=True, highlight=False), [], {}
    kept: dict[str, Any] = {}
    with machine.threads(1):
        for file in arguments.files:
            record = read(file)
            found = _search(arguments, file, models, horizons)
            rows = _rows(found, horizons)
            caption = (
                f"{record.name}: MSE / MAE on standardised series, all windows of the test part; mean of "
                f"{arguments.seeds} seeds ± the larger deviation; chosen by the absolute error on the validation part; "
                "once: one network forecasts all of these horizons"
            )
            table.show(rows, record.name, caption, console)
            tables.append(table.markdown(rows, caption))
            panels[record.name] = _curves(found, horizons)
            kept[record.name] = found
    cache.write(arguments.out / "table.md", "\n\n".join(tables))
    cache.write(arguments.out / "results.json", {"horizons": horizons, "seeds": arguments.seeds, "files": kept})
    print(f"numbers: {arguments.out / 'results.json'}")
    measured = "mean squared error" + (" over that of ridge" if LINEAR in models else "")
    figure.show(lambda path: picture.curves(panels, path, x="steps ahead", y=measured), arguments.out / "picture.png")
    return 0


@lru_cache
def _checksum(file: Path) -> str:
    """What tells files of one name apart."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@lru_cache(maxsize=2)
def read(file: Path) -> series.Record:
    """The series of a file, as a suite keeps it for all its runs."""
    return series.read(file)


def compute(configuration: dict[str, Any], *, file: Path) -> dict[str, Any]:
    """One run, in a process of its own."""
    return longterm.run(configuration, read(file))


def _search(arguments: Arguments, file: Path, models: list[str], horizons: list[int]) -> dict[str, Any]:
    """By model: what validation chose, with the first seed and horizon, and the scores of every seed."""
    record = read(file)
    season = arguments.season or series.season(record.name)
    processes = suite.fitting(arguments.processes)
    own = {} if arguments.steps is None else {"steps": arguments.steps}

    def wanted(name: str, choice: dict[str, Any], seed: int) -> list[dict[str, Any]]:
        parts = [horizons] if CONTENDERS[name].once else [[horizon] for horizon in horizons]
        return [
            {"file": record.name, "checksum": _checksum(file)}
            | longterm.configure(name, choice | own, horizons=part, season=season, seed=seed)
            for part in parts
        ]

    def done(configurations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        one = partial(compute, file=file)
        runs = suite.computed(arguments.out / "runs.jsonl", processes, len(configurations), one, configurations)
        return {cache.key(configuration): result for configuration, result in runs}

    open_choice = {name: CONTENDERS[name].choices for name in models if len(CONTENDERS[name].choices) > 1}
    tried = done([wanted(name, choice, 0)[0] for name, choices in open_choice.items() for choice in choices])
    found = {}
    for name in models:
        losses = [tried.get(cache.key(wanted(name, choice, 0)[0])) for choice in CONTENDERS[name].choices]
        validation = [math.inf if loss is None else loss["validation"]["mae"] for loss in losses]
        found[name] = {
            "chosen": CONTENDERS[name].choices[validation.index(min(validation))], "validation": validation,
            "seeds": arguments.seeds if name in LEARNT else 1,
        }  # fmt: skip
    every = {
        (name, seed): wanted(name, of["chosen"], seed) for name, of in found.items() for seed in range(of["seeds"])
    }
    runs = done([configuration for part in every.values() for configuration in part])
    for name, of in found.items():
        parts = [[runs[cache.key(each)] for each in every[name, seed]] for seed in range(of["seeds"])]
        of["parameters"] = max(part["parameters"] for part in parts[0])
        of["seconds"] = sum(part["seconds"] for part in parts[0])
        scores = [[line for part in one for line in part["test"]] for one in parts]
        of["test"] = [
            {"horizon": lines[0]["horizon"]}
            | {measure: spread([line[measure] for line in lines]) for measure in MEASURES}
            for lines in zip(*scores, strict=True)
        ]
    return found


def _rows(found: dict[str, Any], horizons: list[int]) -> list[list[str]]:
    rows = [["model", *map(str, horizons), "chosen", "parameters"]]
    for name, of in found.items():
        cells = []
        for line in of["test"]:
            parts = [f"{line[measure]['mean']:.3f}" for measure in MEASURES]
            widest = max(line[measure]["spread"] for measure in MEASURES)
            cells.append(" / ".join(parts) + (f" ± {widest:.3f}" if of["seeds"] > 1 else ""))
        label = name + (", once" if CONTENDERS[name].once else "")
        rows.append([label, *cells, _said(of["chosen"]), f"{of['parameters']:,}"])
    return rows


def _said(choice: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in choice.items())


def _curves(found: dict[str, Any], horizons: list[int]) -> dict[str, picture.Curve]:
    """Squared errors over those of the linear forecast, where there is one; without those that learn nothing."""
    base = [line["mse"]["mean"] for line in found[LINEAR]["test"]] if LINEAR in found else [1.0] * len(horizons)
    return {
        name: (horizons, [line["mse"]["mean"] / by for line, by in zip(of["test"], base, strict=True)])
        for name, of in found.items()
        if CONTENDERS[name].model != "naive"
    }
