"""Nearest neighbour search: revising what was stored, mean squared error along the sequence.

Beck et al. 2024, arXiv:2405.04517, section 2 and appendix B. A constant has the error 1/12 = 0.083.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "mamba", "rwkv4", "lstm", "xlstm[0:1]", "xlstm[1:0]", "xlstm[1:1]")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=3000, batch=32, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=2048),
    "paper": Budget(
        steps=100_000, batch=256, dim=128, rates=(1e-1, 1e-2, 1e-3, 1e-4), seeds=5, rows=8192, dropout=0.1, floor=1e-7
    ),
}
LENGTHS = {"smoke": [8], "small": [12, 16], "paper": [64]}


def suite(preset: str) -> Suite:
    """The problems and the budget of a preset."""
    problems = (
        Problem(name=f"T{length}", task="nearest.search", train=(2, length), buckets=((length, length),))
        for length in LENGTHS[preset]
    )
    return Suite(
        problems=tuple(problems), budget=BUDGETS[preset], models=MODELS, measure="last", picture="steps", axis="step"
    )
