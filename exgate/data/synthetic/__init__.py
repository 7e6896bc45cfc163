"""Synthetic tasks: seeded generators of what a model is to learn, drawn afresh for each batch and stored nowhere.

Each file holds functions that return a `Task`; `task("recall.mqar", pairs=8)` calls one by its name. Tasks that are
drawn from files are made in the folder above.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import numpy as np

IGNORED = -100  # a target that does not count, where targets are classes; where they are numbers it is NaN


class Batch(NamedTuple):
    """inputs (B, T) whole numbers or (B, T, F) floats; targets (B, T) whole numbers or (B, T) floats."""

    inputs: np.ndarray
    targets: np.ndarray


Sample = Callable[[np.random.Generator, int, int, int], Batch]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A generator and what a scorer has to know of it.

    Args:
        sample: (random generator, rows, shortest, longest) -> `Batch`; each task says what the two lengths measure.
        vocabulary: tokens (0 is padding) where inputs are tokens, else 0.
        features: F, numbers per step, where inputs are numbers, else 0.
        outputs: classes, or 1 where a number is to be predicted.
        chance: accuracy of guessing, or mean squared error of the best constant.
        blank: a class that is learnt but does not count for the accuracy; -1 is none.
        tolerance: a row of numbers is right where every error is below it; 0 where targets are classes.
        validation, test: as `sample`, where these are other data and not only other draws.
        groups: the number of each class's group, (outputs,), where the losses of groups are of interest.
        along: the loss at each step is of interest.
    """

    sample: Sample
    outputs: int
    chance: float
    vocabulary: int = 0
    features: int = 0
    blank: int = -1
    tolerance: float = 0.0
    validation: Sample | None = None
    test: Sample | None = None
    groups: np.ndarray | None = None
    along: bool = False


def task(name: str, /, **options) -> Task:
    """The task "FILE.FUNCTION" of this folder, with options of that function.

    Raises:
        ValueError: there is no such task, or it has no such option.
    """
    file, _, function = name.partition(".")
    try:
        make = getattr(import_module(f"exgate.data.synthetic.{file}"), function)
    except (ImportError, AttributeError):
        raise ValueError(f"synthetic: there is no task '{name}'. A task is FILE.FUNCTION, as in recall.mqar.") from None
    known = inspect.signature(make).parameters
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"synthetic: {name} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    return make(**options)


def lengths(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> np.ndarray:
    """(rows,) lengths, uniform from shortest to longest, both included.

    Raises:
        ValueError: shortest is more than longest, or less than 1.
    """
    if not 1 <= shortest <= longest:
        raise ValueError(f"synthetic: lengths from {shortest} to {longest}; they should be 1 <= shortest <= longest.")
    return rng.integers(shortest, longest + 1, rows)
