"""The suites of `exgate evaluate SUITE`: runs that are found again, a table, a picture; no command itself."""

import inspect
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

from exgate import figure, hint
from exgate.cli import machine, table
from exgate.data import arena, excerpts, synthetic
from exgate.data.text import BUILT_IN
from exgate.evaluate import cache, cost, gradient, peers, picture, trial
from exgate.evaluate.search import count, search
from exgate.evaluate.trial import Suite

PROCESS = 3 * 2**29  # bytes of memory that a run should find free
MEMORY = Path("/proc/meminfo")
# What `suite` of a suite that reads --data calls their fingerprint: who reads them, and what is read without --data.
READERS: dict[str, tuple[Any, tuple[str, ...]]] = {"text": (excerpts, (BUILT_IN,)), "data": (arena, ())}


@dataclass(frozen=True, kw_only=True)
class Shared:
    suite: Annotated[Positional[str], arg(metavar="SUITE")]
    """What is measured."""
    preset: Annotated[Literal["smoke", "small", "paper"], arg(aliases=("--budget",))] = "small"
    """smoke: seconds, says nothing; small: minutes per model and problem; paper: the published lengths, batches and
    steps."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where table.md, results.json, picture.png and runs.jsonl go: runs/evaluate/SUITE-PRESET. Stopped, it goes on."""


@dataclass(frozen=True, kw_only=True)
class Arguments(Shared):
    models: Annotated[str | None, arg(metavar="A,B,...")] = None
    """Which models; those of the suite. All get the same number of parameters, within 3 %."""
    problems: Annotated[str | None, arg(metavar="A,B,...")] = None
    """Which of the suite's problems; all."""
    seeds: Annotated[int | None, arg(metavar="N")] = None
    """Runs at the best learning rate, in place of the preset's; the rate is chosen on the first."""
    rates: Annotated[str | None, arg(metavar="X,Y,...")] = None
    """Learning rates to choose from, in place of the preset's."""
    steps: Annotated[int | None, arg(metavar="N")] = None
    """Training steps, in place of the preset's."""
    curriculum: Annotated[float, arg(metavar="SHARE")] = 0.0
    """Share of the steps over which the training sequences grow from short ones to their lengths."""
    processes: Annotated[int, arg(metavar="N")] = 1
    """Runs at a time, one thread each; fewer where the memory is too small for them."""
    data: Annotated[tuple[str, ...], arg(metavar="SOURCE ...")] = ()
    """What the suite reads: a text (as in `exgate evaluate RUN --data`; CPython's manual if there is none), or lra's
    folders."""


def evaluate(argv: list[str]) -> int:
    """Runs `exgate evaluate SUITE` and returns its exit status."""
    module = import_module(f"exgate.evaluate.{argv[0].replace('-', '_')}")
    description = f"{module.__doc__}\n\nexample:\n  exgate evaluate {argv[0]}"
    trains = hasattr(module, "suite")  # gradient does not
    arguments = tyro.cli(
        Arguments if trains else Shared, prog=f"exgate evaluate {argv[0]}", description=description, args=argv
    )
    folder = arguments.out or Path("runs", "evaluate", f"{argv[0]}-{arguments.preset}")
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True, highlight=False)
    with machine.threads(1):
        if not isinstance(arguments, Arguments):
            return _gradient(arguments, folder, console)
        make, reads = _tasks(module, arguments)
        suite = _changed(module.suite(arguments.preset, **reads), arguments)
        processes = fitting(arguments.processes)
        compute = partial(trial.run, make=make)
        found = search(suite, partial(computed, folder / "runs.jsonl", processes, count(suite), compute))
        costs = _costs(suite, make) if suite.costs else {}
    title, caption, rows = f"{argv[0]}, preset {arguments.preset}", _caption(suite), _rows(suite, found, costs)
    table.show(rows, title, caption, console)
    cache.write(folder / "table.md", table.markdown(rows, caption))
    cache.write(folder / "results.json", {"arguments": [argv[0], arguments.preset], "budget": vars(suite.budget),
                                          "measure": suite.measure, "problems": found, "costs": costs})  # fmt: skip
    print(f"numbers: {folder / 'results.json'}")
    figure.show(lambda path: _picture(suite, found, path), folder / "picture.png")
    return 0


def _tasks(module: Any, arguments: Arguments) -> tuple[Any, dict[str, Any]]:
    """What makes a suite's tasks, and what its `suite` has to know of the data that it reads: their fingerprints."""
    wanted = [name for name in READERS if name in inspect.signature(module.suite).parameters]
    if not wanted:
        if arguments.data:
            raise ValueError(f"evaluate: --data names a text, but {arguments.suite} reads none. Leave it out.")
        return synthetic.task, {}
    (name,) = wanted
    reader, built_in = READERS[name]
    sources = arguments.data or built_in
    return partial(_task, sources), {name: reader.fingerprint(sources)} if sources else {}


def _task(sources: tuple[str, ...], name: str, **options: Any) -> synthetic.Task:
    """A task on the sources, or a synthetic one. A fingerprint only tells runs on different data apart."""
    file, _, function = name.partition(".")
    reader = {reader.__name__: reader for reader, _ in READERS.values()}.get(f"exgate.data.{file}")
    if reader is None:
        return synthetic.task(name, **options)
    return getattr(reader, function)(sources, **{key: options[key] for key in options if key not in READERS})


def _costs(suite: Suite, make: Any) -> dict[str, dict[str, float]]:
    (problem,) = suite.problems
    task = make(problem.task, **problem.options)
    return cost.measure(suite.models, task, problem, suite.budget)


def _changed(suite: Suite, arguments: Arguments) -> Suite:
    """The suite with what the command line says in place of the preset's."""
    models = suite.models if arguments.models is None else listed(arguments.models)
    problems = suite.problems
    if arguments.problems is not None:
        known = {problem.name: problem for problem in problems}
        for name in (wanted := listed(arguments.problems)):
            if name not in known:
                raise ValueError(f"evaluate: {hint.unknown(name, known, what='problem')}")
        problems = tuple(known[name] for name in wanted)
    for problem in problems:
        peers.check(models, problem.own(suite.budget).blocks)
    budget = suite.budget
    if arguments.rates is not None:
        budget = replace(budget, rates=tuple(positive(rate) for rate in listed(arguments.rates)))
    for name in ("seeds", "steps"):
        if (value := getattr(arguments, name)) is not None:
            if value < 1:
                raise ValueError(f"evaluate: --{name} is {value}; it should be at least 1.")
            budget = replace(budget, **{name: value})
    if arguments.steps is not None:
        problems = tuple(replace(problem, steps=None) for problem in problems)
    if not 0 <= arguments.curriculum <= 1:
        raise ValueError(f"evaluate: --curriculum is {arguments.curriculum}; it is a share, from 0 to 1.")
    budget = replace(budget, curriculum=arguments.curriculum)
    if arguments.processes < 1:
        raise ValueError(f"evaluate: --processes is {arguments.processes}; it should be at least 1.")
    return replace(suite, models=tuple(models), problems=problems, budget=budget)


def computed(
    file: Path, processes: int, total: int, compute: Any, configurations: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Results of configurations, kept or computed, with a progress bar where somebody looks, or a line for each run."""
    console, kept = Console(stderr=True), cache.read(file)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"runs (of {total} in all)", total=len(configurations))
        found = cache.results(configurations, compute, file=file, processes=processes)
        for number, (configuration, result) in enumerate(found, start=1):
            bar.advance(task)
            if not console.is_terminal and cache.key(configuration) not in kept:
                line = f"runs (of {total} in all): {number}/{len(configurations)}, {_named(configuration)}"
                print(line, file=sys.stderr, flush=True)
            yield configuration, result


def _named(configuration: dict[str, Any]) -> str:
    """Which run of a suite that is, by what tells it from the others."""
    words = [configuration.get("problem", {}).get("name", ""), configuration.get("model", "")]
    words += [f"{key} {configuration[key]}" for key in ("horizons", "rate", "seed") if key in configuration]
    return ", ".join(filter(None, words))


def fitting(wanted: int) -> int:
    """As many as are wanted, or for as many as there is memory, but one; where the system does not say (not Linux),
    there is memory."""
    try:
        words = MEMORY.read_text().split()
        room = max(1, 1024 * int(words[words.index("MemAvailable:") + 1]) // PROCESS)
    except (OSError, ValueError):
        return wanted
    if room < wanted:
        print(f"{room} of {wanted} processes: there is memory for {room} runs at a time.", file=sys.stderr)
    return min(wanted, room)


def _measured(suite: Suite) -> str:
    words = {"scaled": "accuracy, chance is 0", "correct": "share of rows without an error", "last": "error at the end",
             "bits": "bits per byte"}  # fmt: skip
    return words.get(suite.measure, suite.measure)


def _caption(suite: Suite) -> str:
    seeds = f"± over {suite.budget.seeds} seeds; " if suite.budget.seeds > 1 else ""
    return f"{_measured(suite)}; {seeds}(learning rate)"


def _rows(suite: Suite, found: dict[str, dict[str, dict[str, Any]]], costs: dict[str, Any]) -> list[list[str]]:
    """Models by problems: the measure in the headline's bucket, its spread over seeds, and the best rate; costs."""
    rows = [["model"]]
    for problem in suite.problems:
        low, high = problem.buckets[suite.headline]
        rows[0].append(f"{problem.name}, {low}-{high}" if high > low else f"{problem.name}, {low}")
    for model in suite.models:
        rows.append([model])
        for problem in suite.problems:
            entry = found[problem.name][model]
            if not entry["buckets"] or suite.measure not in (bucket := entry["buckets"][suite.headline]):
                rows[-1].append("diverged")
                continue
            value, digits = bucket[suite.measure], ".4f" if suite.measure in ("last", "mse") else ".3f"
            spread = f" ± {value['spread']:{digits}}" if suite.budget.seeds > 1 else ""
            ended = (
                "" if bucket["seeds"] == suite.budget.seeds else f", {bucket['seeds']} of {suite.budget.seeds} seeds"
            )
            rows[-1].append(f"{value['mean']:{digits}}{spread} ({entry['rate']:g}{ended})")
    if costs:
        (problem,) = suite.problems
        low, high = problem.train[1], problem.buckets[-1][1]
        rows[0] += ["parameters", "tokens/s", "kB kept a token", f"kB of state at {low}", f"at {high}"]
        for row in rows[1:]:
            of = costs[row[0]]
            kilobytes = [of[name] / 1000 for name in ("kept_bytes_per_token", "state_bytes", "longest_state_bytes")]
            parameters = found[problem.name][row[0]]["parameters"]
            row += [f"{parameters:,}", f"{of['tokens_per_second']:,.0f}", *(f"{value:,.1f}" for value in kilobytes)]
    return rows


def _picture(suite: Suite, found: dict[str, dict[str, dict[str, Any]]], path: Path) -> Path:
    def buckets(problem: str, model: str) -> list[dict[str, Any]]:
        return found[problem][model]["buckets"]

    problems = [problem.name for problem in suite.problems]
    if suite.picture == "map":
        values = [
            [buckets(problem, model)[suite.headline][suite.measure]["mean"] if buckets(problem, model) else None
             for problem in problems]
            for model in suite.models
        ]  # fmt: skip
        return picture.heat(values, suite.models, problems, path)
    panels: dict[str, dict[str, picture.Curve]] = {problem: {} for problem in problems}
    for problem in problems:
        for model in suite.models:
            if not (scored := buckets(problem, model)):
                continue
            if suite.picture == "steps":
                losses, wide = scored[-1]["steps"], trial.stretch(scored[-1]["lengths"][1])
                panels[problem][model] = ([wide * place + (wide - 1) / 2 for place in range(len(losses))], losses)
            elif suite.picture == "groups":
                losses = scored[suite.headline]["groups"]
                values = [None if loss is None else math.exp(loss) for loss in losses]
                panels[problem][model] = (range(len(losses)), values)
            else:
                longest = [bucket["lengths"][1] for bucket in scored]
                panels[problem][model] = (longest, [bucket[suite.measure]["mean"] for bucket in scored])
    if suite.picture == "steps":
        learnt = max(problem.train[1] for problem in suite.problems)
        beyond = any(problem.buckets[-1][1] > learnt for problem in suite.problems)
        return picture.curves(panels, path, x=suite.axis, y=suite.loss, mark=learnt if beyond else None)
    if suite.picture == "groups":
        return picture.curves(panels, path, x=suite.axis, y="perplexity", log=True, ticks=suite.groups)
    return picture.curves(panels, path, x=suite.axis, y=_measured(suite), top=1.05)


def _gradient(arguments: Shared, folder: Path, console: Console) -> int:
    start = time.monotonic()
    steps = {"smoke": 12, "small": 100, "paper": 100}[arguments.preset]
    curves = gradient.curves(steps=steps, seed=0)
    caption = "norm of the gradient d steps back, over that one step back"
    shown = [d for d in (1, 10, 20, 50, 100) if d <= steps]
    rows = [["layer", *(f"d={d}" for d in shown)]]
    rows += [[name, *(f"{values[d - 1]:.3g}" for d in shown)] for name, values in curves.items()]
    table.show(rows, "gradient", caption, console)
    cache.write(folder / "table.md", table.markdown(rows, caption))
    cache.write(folder / "results.json", {"steps": steps, "norms": curves, "seconds": time.monotonic() - start})
    print(f"numbers: {folder / 'results.json'}")
    lines = {name: (range(1, steps + 1), values) for name, values in curves.items()}
    x, y = "steps back, d = T - t", "gradient norm"
    figure.show(
        lambda path: picture.curves({"at initialisation": lines}, path, x=x, y=y, log=True), folder / "picture.png"
    )
    return 0


def listed(words: str) -> list[str]:
    """Names with commas between them, each once, in the order given. Raises ValueError if there is none."""
    # xlstm[1:0] has no comma in its name, so that a comma always separates.
    found = [word.strip() for word in words.split(",") if word.strip()]
    if not found:
        raise ValueError(f"evaluate: '{words}' names nothing. Give names with commas between them.")
    return list(dict.fromkeys(found))


def whole(**numbers: int | None) -> None:
    """Says which number is less than 1."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"evaluate: --{name.replace('_', '-')} is {value}; it should be at least 1.")


def positive(word: str) -> float:
    """A learning rate from a word. Raises ValueError if it is no positive number."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ValueError(f"evaluate: '{word}' is no learning rate; it should be a positive number.")
    return value
