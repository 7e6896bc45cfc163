"""Precise timing (Gers, Schraudolph and Schmidhuber 2002, JMLR 3): what peepholes were made for.

The lengths are steps, one number per batch. Spikes come F + I steps after each other, I of `delays` by chance, the
first one F + I steps after the beginning.
"""

import numpy as np

from exgate.data.synthetic import Batch, Task, lengths


def measure(*, interval: int = 10, delays: int = 2) -> Task:
    """MSD, measure spike delays: a spike train is read, and at each spike I is the target; no target elsewhere."""

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        spikes, chosen, _ = _trains(rng, rows, int(lengths(rng, 1, shortest, longest)[0]), interval, delays)
        return _batch(spikes, np.where(spikes > 0, chosen, np.nan))

    return _task(sample, _variance(delays), 0.49)


def generate(*, interval: int = 10, delays: int = 2) -> Task:
    """GTS, generate timed spikes: I stands in the input at the spike before, and the spike train is the target."""

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        spikes, _, following = _trains(rng, rows, int(lengths(rng, 1, shortest, longest)[0]), interval, delays)
        return _batch(following, spikes)

    rate = 1 / (interval + (delays - 1) / 2)
    return _task(sample, rate * (1 - rate), 0.49)


def periodic(*, interval: int = 10, shape: str = "cosine") -> Task:
    """PFG, periodic function generation: no input, and (1 - cos(2 pi t / F)) / 2, a triangle or a rectangle as target.

    Raises:
        ValueError: there is no such shape.
    """
    phase = np.arange(interval) / interval
    waves = {"cosine": (1 - np.cos(2 * np.pi * phase)) / 2, "triangle": 1 - np.abs(2 * phase - 1)}
    waves["rectangle"] = np.where(phase < 0.5, 0.0, 1.0)
    if shape not in waves:
        raise ValueError(f"periodic: shape is {shape!r}; it should be one of {', '.join(waves)}.")

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        length = int(lengths(rng, 1, shortest, longest)[0])
        wave = np.tile(waves[shape], length // interval + 1)[:length]
        return _batch(np.zeros((rows, length)), np.broadcast_to(wave, (rows, length)))

    return _task(sample, float(waves[shape].var()), 0.3)


def _trains(rng, rows: int, length: int, interval: int, delays: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, length) each: spikes, the I that led to each spike, and at step 0 and each spike the I that comes next."""
    count = length // interval + 2
    chosen = rng.integers(0, delays, (rows, count))
    times = np.cumsum(interval + chosen, 1)
    starts = np.concatenate([np.zeros((rows, 1), np.int64), times[:, :-1]], 1)
    spikes, led, following = (np.zeros((rows, length)) for _ in range(3))
    row = np.broadcast_to(np.arange(rows)[:, None], times.shape)
    inside = times < length
    spikes[row[inside], times[inside]] = 1.0
    led[row[inside], times[inside]] = chosen[inside]
    inside = starts < length
    following[row[inside], starts[inside]] = chosen[inside]
    return spikes, led, following


def _batch(inputs: np.ndarray, targets: np.ndarray) -> Batch:
    return Batch(inputs[:, :, None].astype(np.float32), targets.astype(np.float32))


def _task(sample, chance: float, tolerance: float) -> Task:
    return Task(sample=sample, features=1, outputs=1, chance=chance, tolerance=tolerance)


def _variance(delays: int) -> float:
    return (delays**2 - 1) / 12
