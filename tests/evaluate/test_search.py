"""The best learning rate on the first seed, then the other seeds; means and spreads; what diverges."""

import math

import pytest

from exgate.evaluate.search import count, search
from exgate.evaluate.trial import Budget, Problem, Suite

PROBLEM = Problem(name="p", task="t", train=(1, 2), buckets=((1, 2), (3, 4)))
SUITE = Suite(
    problems=(PROBLEM,),
    models=("a", "b"),
    budget=Budget(steps=1, batch=1, dim=1, rates=(0.1, 0.2, 0.3), seeds=3),
)


def compute(asked):
    def run(configurations):
        for configuration in configurations:
            asked.append(tuple(configuration[key] for key in ("model", "rate", "seed")))
            rate, seed = configuration["rate"], configuration["seed"]
            result = {"parameters": 10, "width": 2, "seconds": 1.0, "training": [1.0]}
            if rate == 0.3 or configuration["model"] == "b":
                yield configuration, result | {"diverged": True}
                continue
            buckets = [{"accuracy": 0.5 + 0.1 * seed, "steps": [None, float(seed)]}, {"accuracy": 1.0, "steps": [1.0]}]
            yield configuration, result | {"validation": {"loss": abs(rate - 0.2)}, "buckets": buckets}

    return run


def test_search():
    asked = []
    table = search(SUITE, compute(asked))
    assert len(asked) == count(SUITE) == 2 * (3 + 2)
    assert [run for run in asked if run[0] == "a"] == [
        ("a", 0.1, 0), ("a", 0.2, 0), ("a", 0.3, 0), ("a", 0.2, 1), ("a", 0.2, 2)
    ]  # fmt: skip
    entry = table["p"]["a"]
    assert (entry["rate"], entry["seconds"], entry["parameters"]) == (0.2, 5.0, 10)
    assert entry["validation"] == {0.1: pytest.approx(0.1), 0.2: 0.0, 0.3: math.inf}
    first, second = entry["buckets"]
    assert first["lengths"] == [1, 2]
    assert first["seeds"] == 3
    assert first["accuracy"] == pytest.approx({"mean": 0.6, "spread": 0.1})
    assert first["steps"] == [None, 1.0]
    assert second["accuracy"] == {"mean": 1.0, "spread": 0.0}
    assert table["p"]["b"]["buckets"] == []
