"""ListOps: nested operations on lists of digits (Nangia and Bowman 2018; Long Range Arena, Tay et al. 2021)."""

import numpy as np

from exgate.data.synthetic import IGNORED, Batch, Task

# Tokens: 0 is padding, digits follow the operations.
MIN, MAX, MED, SUM, CLOSE, ZERO = 1, 2, 3, 4, 5, 6


def listops(*, depth: int = 10, arguments: int = 10) -> Task:
    """The value of a random tree, at its last token: ten classes.

    A node is an operation by chance 1/4 (a digit at `depth` levels), with 2 ... `arguments` arguments; MIN, MAX, MED
    (the median, rounded down) or SM (the sum modulo ten). Trees whose length in tokens is not between the
    shortest and the longest are drawn again: 500 to 2000 in the Long Range Arena. There are no grouping brackets.
    """

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        inputs, targets = np.zeros((rows, longest), np.int64), np.full((rows, longest), IGNORED)
        for row in range(rows):
            tokens, value = _between(rng, shortest, longest, depth, arguments)
            inputs[row, : len(tokens)], targets[row, len(tokens) - 1] = tokens, value
        return Batch(inputs, targets)

    return Task(sample=sample, vocabulary=16, outputs=10, chance=1 / 10)


def _between(rng, shortest: int, longest: int, depth: int, arguments: int) -> tuple[list[int], int]:
    for _ in range(1_000_000):
        tokens: list[int] = []
        value = _grow(rng, tokens, 1, depth, arguments, longest)
        if value is not None and shortest <= len(tokens) <= longest:
            return tokens, value
    raise ValueError(f"listops: no tree of {shortest} to {longest} tokens came out. Take a wider range, or more depth.")


def _grow(rng, tokens: list[int], level: int, depth: int, arguments: int, longest: int) -> int | None:
    """Appends a tree and returns its value; None as soon as it is too long."""
    if level >= depth or rng.random() >= 0.25:
        digit = int(rng.integers(10))
        tokens.append(ZERO + digit)
        return digit if len(tokens) <= longest else None
    op = int(rng.integers(MIN, SUM + 1))
    tokens.append(op)
    values = []
    for _ in range(int(rng.integers(2, arguments + 1))):
        value = _grow(rng, tokens, level + 1, depth, arguments, longest)
        if value is None:
            return None
        values.append(value)
    tokens.append(CLOSE)
    if op == MED:
        return int(np.median(values))
    return min(values) if op == MIN else max(values) if op == MAX else sum(values) % 10
