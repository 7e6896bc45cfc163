"""The multiplication problem of 1997: as the adding problem, but two marked numbers are multiplied.

Hochreiter and Schmidhuber 1997, experiment 5. The measure is the share of sequences with an error below 0.04.
"""

from exgate.evaluate import adding
from exgate.evaluate.trial import Suite


def suite(preset: str) -> Suite:
    """The problems and the budget of a preset: those of adding."""
    return adding.suite(preset, "classical.multiplication")
