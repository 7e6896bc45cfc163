"""Associative recall: many keys at once (MQAR), and one key at a distance."""

import numpy as np

from exgate.data.synthetic import IGNORED, Batch, Task, lengths


def mqar(*, vocabulary: int = 8192, pairs: int = 4, power: float = 0.01, fill: bool = False) -> Task:
    r"""Multi-query associative recall (Arora et al. 2024, arXiv:2312.04927).

    The first 2 K steps are K pairs of key and value; then each key comes again, once, and its value is the target at
    that step. Of the slots of two steps that are left, key number j takes one at gap g with probability
    $\propto (g+1)^{a-1}$, a = `power`, without replacement. Keys are 1 ... V/2 - 1, values V/2 ... V - 1, each without
    replacement; all else is 0. The length T is one per batch, the even number at or below a uniform one.

    Args:
        vocabulary: V, even.
        pairs: K, with 4 K <= T.
        fill: random tokens in place of 0 (Arora et al. 2024, arXiv:2402.18668): harder, they may be keys by chance.
    Raises:
        ValueError: V is odd or has fewer than K keys; when sampling: T is less than 4 K.
    """
    if vocabulary % 2 or vocabulary // 2 - 1 < pairs or pairs < 1:
        raise ValueError(f"mqar: {pairs} pairs of a vocabulary of {vocabulary}; it should be even, with pairs < V / 2.")

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        length = int(lengths(rng, 1, shortest, longest)[0]) // 2 * 2
        if length < 4 * pairs:
            raise ValueError(f"mqar: {pairs} pairs need a length of {4 * pairs} or more, but it is {length}.")
        half = vocabulary // 2
        keys = 1 + _chosen(rng, rows, np.ones(half - 1), pairs)
        values = half + _chosen(rng, rows, np.ones(half), pairs)
        gaps = np.arange(1, (length - 2 * pairs) // 2 + 1) ** (power - 1)
        places = 2 * pairs + 2 * _chosen(rng, rows, gaps, pairs)
        inputs = rng.integers(0, vocabulary, (rows, length)) if fill else np.zeros((rows, length), np.int64)
        inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
        targets = np.full((rows, length), IGNORED)
        np.put_along_axis(inputs, places, keys, 1)
        np.put_along_axis(targets, places, values, 1)
        return Batch(inputs, targets)

    # Who knows the row's values, and not which is whose, is right once in K.
    return Task(sample=sample, vocabulary=vocabulary, outputs=vocabulary, chance=1 / pairs)


def needle(*, keys: int = 16, values: int = 16, filler: int = 32) -> Task:
    """One pair of key and value in random filler, and the key again as the last token: its value is the target.

    In the manner of "needle in a haystack" tests. The lengths are the distance from the pair's key to its second
    occurrence, at least 2; a batch is one step longer than the longest. Tokens: keys from 1, then values, then filler.

    Raises:
        ValueError: there is not one of each; when sampling: the distance is less than 2.
    """
    if min(keys, values, filler) < 1:
        raise ValueError(f"needle: {keys} keys, {values} values and {filler} filler; there should be one of each.")
    vocabulary = 1 + keys + values + filler

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        if shortest < 2:
            raise ValueError(f"needle: a distance of {shortest}; the value stands between, so it is at least 2.")
        inputs = rng.integers(1 + keys + values, vocabulary, (rows, longest + 1))
        row, place = np.arange(rows), longest - lengths(rng, rows, shortest, longest)
        key, value = rng.integers(1, 1 + keys, rows), rng.integers(1 + keys, 1 + keys + values, rows)
        inputs[row, place], inputs[row, place + 1], inputs[:, -1] = key, value, key
        targets = np.full((rows, longest + 1), IGNORED)
        targets[:, -1] = value
        return Batch(inputs, targets)

    return Task(sample=sample, vocabulary=vocabulary, outputs=vocabulary, chance=1 / values)


def _chosen(rng: np.random.Generator, rows: int, weights: np.ndarray, count: int) -> np.ndarray:
    """(rows, count) places drawn one after the other without replacement, in proportion to their weights.

    The first arrivals of independent exponential clocks with these rates are such a draw, in their order.
    """
    arrivals = rng.exponential(size=(rows, len(weights))) / weights
    first = np.argpartition(arrivals, count - 1, 1)[:, :count]
    return np.take_along_axis(first, np.argsort(np.take_along_axis(arrivals, first, 1), 1), 1)
