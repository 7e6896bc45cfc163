"""The adding problem of 1997: two marked numbers of a long sequence, added at its end.

Hochreiter and Schmidhuber 1997, experiment 4. The measure is the share of sequences with an error below 0.04; in 1997
a network had learnt the task when 2000 in a row were.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("rnn", "lstm", "xlstm[0:1]", "xlstm[1:0]", "llama", "mamba", "rwkv4")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=4000, batch=32, dim=32, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=2560, blocks=1, beta2=0.999),
    # 1997: one sequence at a time, at most a few million of them.
    "paper": Budget(steps=50_000, batch=64, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=10, rows=2560, blocks=1),
}
# T, and the steps in place of the budget's: in `small` those of 500 cost five times as much.
LENGTHS = {"smoke": {20: None}, "small": {100: None, 500: 2000}, "paper": {100: None, 500: None, 1000: None}}
SHORTEST = 6  # a sequence of less has no room for two marks


def suite(preset: str, task: str = "classical.adding") -> Suite:
    """The problems and the budget of a preset, for this task or another of marked numbers."""
    problems = (_problem(task, length, steps) for length, steps in LENGTHS[preset].items())
    return Suite(problems=tuple(problems), budget=BUDGETS[preset], models=MODELS, measure="correct")


def _problem(task: str, length: int, steps: int | None) -> Problem:
    """Sequences of T to T + T/10 steps; a curriculum begins with a tenth of that."""
    reach, begin = (length, length + length // 10), max(SHORTEST, length // 10)
    return Problem(name=f"T{length}", task=task, train=reach, buckets=(reach,), steps=steps, first=(begin, begin + 1))
