"""The runs of a suite: every learning rate on the first seed, then the best one on the others; and what came out."""

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from exgate.evaluate.trial import Problem, Suite, configure

Configuration = dict[str, Any]
Result = dict[str, Any]
# (configurations) -> (configuration, result) each, in any order: exgate.evaluate.cache.results, filled in.
Compute = Callable[[list[Configuration]], Iterator[tuple[Configuration, Result]]]


def count(suite: Suite) -> int:
    """How many runs `search` makes."""
    return len(suite.problems) * len(suite.models) * (len(suite.budget.rates) + suite.budget.seeds - 1)


def search(suite: Suite, compute: Compute) -> dict[str, dict[str, dict[str, Any]]]:
    """All runs of a suite, and what they say.

    The learning rate is chosen per problem and model by the loss on validation sequences of the training lengths: never
    on the lengths that are reported.

    Returns:
        By problem and model: rate, parameters, width, seconds (of all runs), validation loss by rate, and `buckets`:
        for each, every measure's mean and spread (standard deviation) over seeds, and how many seeds; empty where every
        seed diverged.
    """
    places = [(problem, model) for problem in suite.problems for model in suite.models]

    def wanted(problem: Problem, model: str, rate: float, seed: int) -> Configuration:
        return configure(problem, suite.budget, model, rate=rate, seed=seed)

    first = _done(compute, [wanted(*place, rate, 0) for place in places for rate in suite.budget.rates])
    best = {}
    for problem, model in places:
        found = {rate: loss(first[_key(wanted(problem, model, rate, 0))]) for rate in suite.budget.rates}
        best[problem.name, model] = (min(found, key=lambda rate: found[rate]), found)
    others = [
        wanted(problem, model, best[problem.name, model][0], seed)
        for problem, model in places
        for seed in range(1, suite.budget.seeds)
    ]
    done = first | _done(compute, others)
    table: dict[str, dict[str, dict[str, Any]]] = {problem.name: {} for problem in suite.problems}
    for problem, model in places:
        rate, losses = best[problem.name, model]
        runs = [done[_key(wanted(problem, model, rate, seed))] for seed in range(suite.budget.seeds)]
        tried = [first[_key(wanted(problem, model, other, 0))] for other in suite.budget.rates if other != rate]
        table[problem.name][model] = {
            "rate": rate, "parameters": runs[0]["parameters"], "width": runs[0]["width"],
            "seconds": round(sum(run["seconds"] for run in runs + tried), 3), "validation": losses,
            "buckets": _buckets(problem, runs),
        }  # fmt: skip
    return table


def loss(result: Result) -> float:
    """The loss that a rate is chosen by; infinite for a run that diverged."""
    value = result.get("validation", {}).get("loss")
    return math.inf if value is None or not math.isfinite(value) else value


def _buckets(problem: Problem, runs: list[Result]) -> list[dict[str, Any]]:
    ended = [run["buckets"] for run in runs if "buckets" in run]
    if not ended:
        return []
    found = []
    for place, lengths in enumerate(problem.buckets):
        scores: dict[str, Any] = {"lengths": list(lengths), "seeds": len(ended)}
        for measure, value in ended[0][place].items():
            values = [run[place][measure] for run in ended]
            if isinstance(value, list):
                scores[measure] = [
                    None if None in step else statistics.fmean(step) for step in zip(*values, strict=True)
                ]
            elif None not in values:
                scores[measure] = spread(values)
        found.append(scores)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """The mean of a measure over seeds, and its standard deviation."""
    return {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if len(values) > 1 else 0.0}


def _done(compute: Compute, configurations: list[Configuration]) -> dict[str, Result]:
    return {_key(configuration): result for configuration, result in compute(configurations)}


def _key(configuration: Configuration) -> str:
    return repr((configuration["problem"]["name"], *(configuration[key] for key in ("model", "rate", "seed"))))
