"""ListOps of the Long Range Arena: the value of a long nested expression, one of ten classes.

Tay et al. 2021, arXiv:2011.04006, with the settings of the xLSTM paper (arXiv:2405.04517, table 5) as preset `paper`.
The class is read at the last token. The other tasks of the arena need files and are not here.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "mamba", "rwkv4", "lstm", "lstm-block", "xlstm[0:1]", "xlstm[1:0]")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=2000, batch=32, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3),
    "paper": Budget(steps=80_000, batch=32, dim=128, rates=(1e-3, 6e-4, 1e-4), rows=2000, blocks=8),
}
LENGTHS = {"smoke": (5, 40), "small": (50, 200), "paper": (500, 2000)}


def suite(preset: str) -> Suite:
    """The problem and the budget of a preset."""
    reach = LENGTHS[preset]
    problem = Problem(name="listops", task="listops.listops", train=reach, buckets=(reach,))
    return Suite(problems=(problem,), budget=BUDGETS[preset], models=MODELS, measure="accuracy")
