"""The copying memory: ten symbols, kept over T steps without a sight of them.

Arjovsky et al. 2016, arXiv:1511.06464. The measure is the accuracy on the ten symbols (chance is 1/8); the loss counts
all steps, and without memory is at best 10 ln 8 / (T + 20) nats.
"""

from dataclasses import replace

from exgate.evaluate import adding
from exgate.evaluate.trial import Problem, Suite

DELAYS = {"smoke": [10], "small": [50, 100], "paper": [100, 500, 1000]}


def suite(preset: str) -> Suite:
    """The problems of a preset, with the models of the adding problem and its budget.

    A curriculum begins with a tenth of T.
    """
    problems = (
        Problem(
            name=f"T{delay}", task="classical.copy", train=(delay,) * 2, buckets=((delay,) * 2,), first=(begin,) * 2
        )
        for delay, begin in ((delay, delay // 10) for delay in DELAYS[preset])
    )
    budget = replace(adding.BUDGETS[preset], rows=min(512, adding.BUDGETS[preset].rows))
    return Suite(problems=tuple(problems), budget=budget, models=adding.MODELS, measure="accuracy")
