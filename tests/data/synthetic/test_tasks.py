"""Recall, nearest neighbours, long lags, timing, ListOps: targets against slow, separate computations."""

import numpy as np
import pytest

from exgate.data.synthetic import IGNORED, classical, listops, nearest, recall, task, timing

EVERY = {
    "recall.mqar": ({"vocabulary": 64, "pairs": 4}, 32, 32),
    "recall.needle": ({}, 5, 30),
    "nearest.search": ({}, 2, 20),
    "classical.adding": ({}, 50, 55),
    "classical.multiplication": ({}, 50, 55),
    "classical.temporal_order": ({}, 100, 110),
    "classical.copy": ({}, 20, 20),
    "timing.measure": ({}, 60, 60),
    "timing.generate": ({}, 60, 60),
    "timing.periodic": ({}, 60, 60),
    "listops.listops": ({"depth": 4, "arguments": 4}, 10, 60),
}


def rng(seed=7):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", EVERY)
def test_a_seed_is_a_batch(name):
    options, shortest, longest = EVERY[name]
    made = task(name, **options)
    first, again, other = (made.sample(rng(seed), 16, shortest, longest) for seed in (1, 1, 2))
    assert np.array_equal(first.inputs, again.inputs)
    assert np.array_equal(first.targets, again.targets, equal_nan=made.vocabulary == 0)
    if name != "timing.periodic":
        assert not np.array_equal(first.inputs, other.inputs)
    assert first.inputs.shape[:2] == first.targets.shape
    assert bool(made.vocabulary) != bool(made.features)
    if made.vocabulary:
        assert first.inputs.dtype == first.targets.dtype == np.int64
        assert first.inputs.min() >= 0
        assert first.inputs.max() < made.vocabulary
        assert first.targets.max() < made.outputs
    else:
        assert first.inputs.dtype == first.targets.dtype == np.float32
        assert first.inputs.shape[2] == made.features
        assert np.isfinite(first.inputs).all()


@pytest.mark.parametrize(
    "name", ["nearest.search", "classical.adding", "classical.multiplication", "timing.generate", "timing.periodic"]
)
def test_the_error_of_a_constant(name):
    options, shortest, longest = EVERY[name]
    targets = task(name, **options).sample(rng(), 6000, shortest, longest).targets
    # Nearest values repeat along a row, so a row counts by its last one.
    last = targets if name.startswith("timing") else [row[~np.isnan(row)][-1] for row in targets]
    rtol = 0.15 if name == "timing.generate" else 0.06  # the train begins with a gap
    assert np.nanvar(last) == pytest.approx(task(name, **options).chance, rel=rtol)


@pytest.mark.parametrize("fill", [False, True])
def test_mqar(fill):
    pairs, length = 8, 64
    batch = recall.mqar(vocabulary=128, pairs=pairs, fill=fill).sample(rng(), 300, length, length)
    gaps = np.zeros((length - 2 * pairs) // 2)
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        held = dict(zip(inputs[: 2 * pairs : 2], inputs[1 : 2 * pairs : 2], strict=True))
        assert len(held) == pairs
        assert all(0 < key < 64 <= value for key, value in held.items())
        assert len(set(held.values())) == pairs
        asked = np.flatnonzero(targets != IGNORED)
        assert sorted(inputs[asked]) == sorted(held), "each key once"
        assert [held[key] for key in inputs[asked]] == targets[asked].tolist()
        assert (asked >= 2 * pairs).all()
        assert (asked % 2 == 0).all()
        gaps[(asked - 2 * pairs) // 2] += 1
        if not fill:
            assert np.count_nonzero(inputs) == 3 * pairs
    weights = np.arange(1, len(gaps) + 1) ** -0.99
    expected = np.zeros_like(gaps)
    for _ in range(3000):
        expected[np.random.choice(len(gaps), pairs, replace=False, p=weights / weights.sum())] += 1
    assert np.allclose(gaps / 300, expected / 3000, atol=0.1)
    assert gaps[0] / 300 > 0.85 > 0.2 > gaps[-1] / 300


def test_needle():
    batch = recall.needle(keys=4, values=5, filler=6).sample(rng(), 200, 3, 30)
    distances = set()
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        (place,) = np.flatnonzero((inputs[:-1] >= 1) & (inputs[:-1] < 5))
        assert inputs[place] == inputs[-1]
        assert targets[-1] == inputs[place + 1]
        assert 5 <= targets[-1] < 10
        assert (targets[:-1] == IGNORED).all()
        distances.add(30 - place)
    assert distances == set(range(3, 31))


def test_nearest():
    batch = nearest.search().sample(rng(), 100, 2, 20)
    sizes = set()
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        size = int((~np.isnan(targets)).sum()) + 1
        sizes.add(size)
        assert np.isnan(targets[0])
        for t in range(1, size):
            best = max(range(1, t + 1), key=lambda s: inputs[s, :2] @ inputs[0, :2])
            assert targets[t] == inputs[best, 2]
        assert np.allclose(np.linalg.norm(inputs[:size, :2], axis=1), 1, atol=1e-6)
        assert not inputs[size:].any()
    assert sizes == set(range(2, 21))


@pytest.mark.parametrize("name, neutral, low", [("adding", 0.0, -1), ("multiplication", 1.0, 0)])
def test_marked_numbers(name, neutral, low):
    batch = getattr(classical, name)().sample(rng(), 400, 100, 110)
    firsts = 0
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        (end,) = np.flatnonzero(~np.isnan(targets))
        assert 99 <= end < 110
        assert inputs[0, 1] == inputs[end, 1] == -1
        marked = np.flatnonzero(inputs[:, 1] == 1).tolist()
        assert max(marked) < 49
        assert len(marked) == 1 or min(marked) < 10
        numbers = [float(inputs[place, 0]) for place in marked]
        if len(marked) == 1:
            firsts += 1
            numbers.append(neutral)
        a, b = numbers
        expected = 0.5 + (a + b) / 4 if name == "adding" else a * b
        assert targets[end] == pytest.approx(expected, abs=1e-6)
        assert inputs[: end + 1, 0].min() >= low
    assert 10 < firsts < 90, "the very first number is marked about once in ten"


@pytest.mark.parametrize("symbols", [2, 3])
def test_temporal_order(symbols):
    batch = classical.temporal_order(symbols=symbols).sample(rng(), 300, 100, 110)
    windows = [(10, 20), (50, 60)] if symbols == 2 else [(10, 20), (33, 43), (66, 76)]
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        places = np.flatnonzero(inputs >= 7)
        assert len(places) == symbols
        assert all(low <= place <= high for place, (low, high) in zip(places, windows, strict=True))
        (end,) = np.flatnonzero(targets != IGNORED)
        assert (inputs[0], inputs[end]) == (1, 2)
        assert set(inputs[1:end]) - {7, 8} == {3, 4, 5, 6}
        assert targets[end] == int("".join("XY"[token - 7] for token in inputs[places]).translate({88: 48, 89: 49}), 2)
    assert np.allclose(np.bincount(batch.targets[batch.targets >= 0]) / 300, 0.5**symbols, atol=0.08)


def test_copy():
    batch = classical.copy().sample(rng(), 50, 30, 30)
    assert batch.inputs.shape == (50, 50)
    assert np.array_equal(batch.targets[:, -10:], batch.inputs[:, :10])
    assert (batch.targets[:, :-10] == 0).all()
    assert (batch.inputs[:, 39] == 9).all()
    assert np.count_nonzero(batch.inputs) == 50 * 11
    assert set(batch.inputs[:, :10].ravel()) == set(range(1, 9))


def test_timing():
    measured = timing.measure(interval=10, delays=2).sample(rng(), 50, 100, 100)
    for inputs, targets in zip(measured.inputs[:, :, 0], measured.targets, strict=True):
        spikes = np.flatnonzero(inputs)
        gaps = np.diff([0, *spikes])
        assert set(gaps) <= {10, 11}
        assert np.array_equal(targets[spikes], gaps - 10)
        assert np.isnan(np.delete(targets, spikes)).all()
    generated = timing.generate(interval=10, delays=2).sample(rng(), 50, 100, 100)
    for inputs, targets in zip(generated.inputs[:, :, 0], generated.targets, strict=True):
        at, expected = 0, np.zeros(100)
        while (at := at + 10 + int(inputs[at])) < 100:
            expected[at] = 1
        assert np.array_equal(targets, expected)
    for shape in ("cosine", "triangle", "rectangle"):
        wave = timing.periodic(shape=shape).sample(rng(), 2, 45, 45).targets
        assert np.array_equal(wave[:, 10:], wave[:, :-10])
        assert (wave.min(), wave.max()) == pytest.approx((0, 1))


def test_listops():
    batch = listops.listops(depth=5, arguments=5).sample(rng(), 100, 10, 80)

    def value(tokens):
        token = tokens.pop(0)
        if token >= listops.ZERO:
            return token - listops.ZERO
        values = []
        while tokens[0] != listops.CLOSE:
            values.append(value(tokens))
        tokens.pop(0)
        ordered = sorted(values)
        middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) // 2
        return {1: ordered[0], 2: ordered[-1], 3: middle, 4: sum(values) % 10}[token]

    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        tokens = [int(token) for token in inputs if token]
        (end,) = np.flatnonzero(targets != IGNORED)
        assert end == len(tokens) - 1
        assert 10 <= len(tokens) <= 80
        assert targets[end] == value(tokens)
        assert tokens == [], "one tree"


def test_mistakes():
    for call, words in [
        (lambda: recall.mqar(vocabulary=9), "vocabulary of 9; it should be even"),
        (lambda: recall.mqar(vocabulary=64, pairs=8).sample(rng(), 2, 30, 30), "need a length of 32 or more"),
        (lambda: recall.needle(keys=0), "there should be one of each"),
        (lambda: recall.needle().sample(rng(), 2, 1, 9), "a distance of 1"),
        (lambda: classical.adding().sample(rng(), 2, 5, 9), "no room for two marks"),
        (lambda: classical.temporal_order(symbols=4), "it should be 2 or 3"),
        (lambda: classical.temporal_order().sample(rng(), 2, 9, 9), "take 10 or more"),
        (lambda: timing.periodic(shape="sine"), "one of cosine, triangle, rectangle"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
