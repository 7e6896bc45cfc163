"""Long time lags: the tasks of the LSTM paper (Hochreiter and Schmidhuber 1997), and the copying memory."""

import numpy as np

from exgate.data.synthetic import IGNORED, Batch, Task, lengths

_FIRST = 0.1 + 0.9 / 48  # how often the very first number is marked, at T = 100: for the error of the best constant


def adding() -> Task:
    """0.5 + (X1 + X2) / 4 at the last step, from two marked numbers in [-1, 1] (1997, experiment 4).

    See `_marked`; 0.04 is the tolerance of 1997.
    """
    chance = ((1 - _FIRST) * 2 / 3 + _FIRST / 3) / 16
    return _marked(-1.0, lambda first, second: 0.5 + (first + second) / 4, neutral=0.0, chance=chance)


def multiplication() -> Task:
    """X1 X2 at the last step, from two marked numbers in [0, 1] (1997, experiment 5): see `_marked`."""
    chance = (1 - _FIRST) / 9 + _FIRST / 3 - ((1 - _FIRST) / 4 + _FIRST / 2) ** 2
    return _marked(0.0, lambda first, second: first * second, neutral=1.0, chance=chance)


def _marked(low: float, combine, *, neutral: float, chance: float) -> Task:
    """Steps (x, marker), x uniform in [low, 1]; the marker is 1 at two steps, -1 at the first and last one, else 0.

    With T the shortest length, one step of the first ten is marked and one of the first T/2 - 1 that is not. What is
    marked at the first step counts as `neutral`: its marker stays -1. In 1997 the lengths were T ... T + T/10.
    """

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        sizes, half = lengths(rng, rows, shortest, longest), shortest // 2 - 1
        if half < 2:
            raise ValueError(f"classical: a length of {shortest} has no room for two marks; it should be 6 or more.")
        row, first = np.arange(rows), rng.integers(0, min(10, half), rows)
        second = rng.integers(0, half - 1, rows)
        second += second >= first
        x, marker = rng.uniform(low, 1, (rows, longest)), np.zeros((rows, longest))
        marker[row, first] = marker[row, second] = 1.0
        marker[:, 0] = marker[row, sizes - 1] = -1.0
        a, b = (np.where(place == 0, neutral, x[row, place]) for place in (first, second))
        targets = np.full((rows, longest), np.nan)
        targets[row, sizes - 1] = combine(a, b)
        inputs = np.stack([x, marker], 2)
        inputs[np.arange(longest) >= sizes[:, None]] = 0.0
        return Batch(inputs.astype(np.float32), targets.astype(np.float32))

    return Task(sample=sample, features=2, outputs=1, chance=chance, tolerance=0.04)


def temporal_order(*, symbols: int = 2) -> Task:
    """Which of X and Y came where, at the last step: four classes for two symbols, eight for three (1997, task 6).

    Tokens: 0 padding, 1 E (first), 2 B (last), 3 to 6 noise, 7 X, 8 Y. With T the shortest length (100 in 1997, the
    longest 110), two symbols stand at T/10 ... T/5 and T/2 ... 6T/10, three at T/10 ... T/5, 33T/100 ... 43T/100
    and 66T/100 ... 76T/100. A class is the symbols as binary digits, Y being 1, the first symbol the highest.

    Raises:
        ValueError: symbols are not 2 or 3; when sampling: the shortest length is less than 10.
    """
    if symbols not in (2, 3):
        raise ValueError(f"temporal_order: {symbols} symbols; it should be 2 or 3.")
    windows = [(10, 20), (50, 60)] if symbols == 2 else [(10, 20), (33, 43), (66, 76)]

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        if shortest < 10:
            raise ValueError(f"temporal_order: a length of {shortest} has no room for the symbols; take 10 or more.")
        sizes, row = lengths(rng, rows, shortest, longest), np.arange(rows)
        inputs = rng.integers(3, 7, (rows, longest))
        inputs[:, 0] = 1
        label = np.zeros(rows, np.int64)
        for low, high in windows:
            is_y = rng.integers(0, 2, rows)
            inputs[row, rng.integers(shortest * low // 100, shortest * high // 100 + 1, rows)] = 7 + is_y
            label = 2 * label + is_y
        inputs[row, sizes - 1] = 2
        inputs[np.arange(longest) >= sizes[:, None]] = 0
        targets = np.full((rows, longest), IGNORED)
        targets[row, sizes - 1] = label
        return Batch(inputs, targets)

    return Task(sample=sample, vocabulary=9, outputs=2**symbols, chance=1 / 2**symbols)


def copy(*, symbols: int = 10) -> Task:
    """Ten symbols of 1 to 8, T - 1 zeros, a 9, ten zeros; from there on the symbols are the target, before it 0.

    The copying memory (Arjovsky et al. 2016, arXiv:1511.06464). The length is T, one per batch: T + 2 S steps. Every
    step is learnt, the last S are scored. Without memory the loss is at best S ln 8 / (T + 2 S) nats.
    """

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        delay = int(lengths(rng, 1, shortest, longest)[0])
        word = rng.integers(1, 9, (rows, symbols))
        inputs = np.zeros((rows, delay + 2 * symbols), np.int64)
        targets = inputs.copy()
        inputs[:, :symbols], inputs[:, symbols + delay - 1] = word, 9
        targets[:, -symbols:] = word
        return Batch(inputs, targets)

    return Task(sample=sample, vocabulary=10, outputs=9, chance=1 / 8, blank=0)
