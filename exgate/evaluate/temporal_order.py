"""The temporal order problem of 1997: which of two symbols came first, second (and third), long ago.

Hochreiter and Schmidhuber 1997, experiment 6, with two and three symbols; the measure is the accuracy at the end.
"""

from exgate.evaluate import adding
from exgate.evaluate.trial import Problem, Suite

LENGTH = {"smoke": 20, "small": 100, "paper": 100}
SHORTEST = 10  # a sequence of less has no room for the symbols


def suite(preset: str) -> Suite:
    """The problems of a preset, with the models and the budget of the adding problem.

    A curriculum begins with a tenth of T.
    """
    reach = (LENGTH[preset], LENGTH[preset] * 11 // 10)
    begin = max(SHORTEST, LENGTH[preset] // 10)
    problems = (
        Problem(name=f"{symbols} symbols", task="classical.temporal_order", options={"symbols": symbols}, train=reach,
                buckets=(reach,), first=(begin, begin + 1))
        for symbols in (2, 3)
    )  # fmt: skip
    return Suite(problems=tuple(problems), budget=adding.BUDGETS[preset], models=adding.MODELS, measure="accuracy")
