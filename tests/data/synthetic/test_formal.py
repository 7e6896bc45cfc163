"""Formal languages: every answer against a slow, separate solver, and the protocol that all of them keep."""

from itertools import pairwise

import numpy as np
import pytest

from exgate.data.synthetic import IGNORED, formal, lengths, task

EVERY = pytest.mark.parametrize("name", formal.LANGUAGES)


def shown(text: str, question: list[int]) -> str:
    """The question as text: `text` holds the letters of the tokens from 1 on."""
    return "".join(text[token - 1] for token in question)


def value(text: str) -> int:
    return eval(text.replace("=", "")) % 5


def counts(question: list[int]) -> dict[int, int]:
    return {token: question.count(token) for token in sorted(set(question))}


def parity(q):
    return [1 + q.count(2) % 2]


def even_pairs(q):
    return [1 + sum(a != b for a, b in pairwise(q)) % 2]


def cycle(q):
    place = 0
    for token in q:
        place = (place + {1: 0, 2: 1, 3: 4}[token]) % 5
    return [4 + place]


def equation(q):
    text = shown("+-*=()xA01234", q)
    assert text.endswith("A")
    left, _, right = text[:-1].partition("=")
    solutions = [x for x in range(5) if value(left.replace("x", str(x))) == int(right)]
    assert len(solutions) == 1, "x is unique"
    return [9 + solutions[0]]


def missing(q):
    half = len(q) // 2
    (place,) = [place for place in range(half) if q[half + place] == 1]
    assert [a for a, b in zip(q[:half], q[half:], strict=True) if b != 1] == [b for b in q[half:] if b != 1]
    return [q[place]]


def stack(q):
    held = []
    assert q[-1] == 10
    for token in q[:-1]:
        if token <= 4:
            held.append(token)
        elif token < 9:
            held.append(token - 4)
        elif held:
            held.pop()
    return held


def word(q):
    assert q[-1] == 1
    return q[:-1]


SOLVERS = {
    "bucket-sort": sorted,
    "missing-duplicate": missing,
    "mod-arithmetic-brackets": lambda q: [7 + value(shown("+-*=()01234", q))],
    "solve-equation": equation,
    "cycle-nav": cycle,
    "even-pairs": even_pairs,
    "mod-arithmetic": lambda q: [5 + value(shown("+-*=01234", q))],
    "parity": parity,
    "majority": lambda q: [max(counts(q), key=counts(q).__getitem__)],
    "majority-count": lambda q: [min(63, max(counts(q).values()))],
    "odds-first": lambda q: word(q)[0::2] + word(q)[1::2],
    "reverse": lambda q: word(q)[::-1],
    "stack": stack,
    "repetition": word,
    "set": lambda q: list(dict.fromkeys(word(q))),
}


def test_there_are_fifteen_in_the_order_of_the_paper():
    assert list(SOLVERS) == list(formal.LANGUAGES)
    assert len(SOLVERS) == 15


@EVERY
@pytest.mark.parametrize("reach", [(5, 40), (100, 140)])
def test_answers(name, reach):
    spec = formal.LANGUAGES[name]
    batch = formal.language(name).sample(np.random.default_rng(3), 200, *reach)
    assert batch.inputs.shape == batch.targets.shape == (200, reach[1] - 1)
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() < spec.vocabulary
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        asked = np.flatnonzero(targets != IGNORED)
        # The answer is asked for from the last token of the question on, and is never in the input.
        question = [int(token) for token in inputs if token]
        assert not inputs[len(question) :].any()
        answer = SOLVERS[name](question)
        assert targets[asked].tolist() == answer
        assert asked.tolist() == list(range(len(question) - 1, len(question) - 1 + len(answer)))
        assert len(question) + len(answer) <= reach[1]


@EVERY
def test_the_shortest_and_the_same_again(name):
    made, least = formal.language(name), formal.LANGUAGES[name].shortest
    first = made.sample(np.random.default_rng(5), 40, least, least + 3)
    again = made.sample(np.random.default_rng(5), 40, least, least + 3)
    other = made.sample(np.random.default_rng(6), 40, least, least + 3)
    assert np.array_equal(first.inputs, again.inputs)
    assert np.array_equal(first.targets, again.targets)
    assert not np.array_equal(first.inputs, other.inputs)
    with pytest.raises(ValueError, match=f"sequences of length {least} and more"):
        made.sample(np.random.default_rng(5), 4, least - 1, 9)


@EVERY
def test_every_length_occurs_and_answers_are_spread(name):
    batch = formal.language(name).sample(np.random.default_rng(0), 4000, 20, 40)
    used = ((batch.inputs > 0) | (batch.targets != IGNORED)).sum(1) + 1
    assert used.max() <= 40
    assert len(np.unique((batch.inputs > 0).sum(1))) >= 9
    answers = batch.targets[batch.targets != IGNORED]
    share = np.bincount(answers).max() / len(answers)
    if name not in ("majority-count", "majority"):
        assert share < 1.35 * formal.language(name).chance + 0.05, "no answer that guessing finds"


def test_distributions():
    rng = np.random.default_rng(1)
    sizes = lengths(rng, 9000, 3, 5)
    assert np.allclose(np.bincount(sizes)[3:] / 9000, 1 / 3, atol=0.03)
    question, _ = formal.cycle_navigation(rng, 3000, 11)
    assert np.allclose(np.bincount(question.ravel())[1:] / question.size, 1 / 3, atol=0.02)
    _, answer = formal.stack_manipulation(rng, 500, 31)
    assert 1 < (answer > 0).sum(1).mean() < 15
    text, _ = formal.expression(rng, 30, "+-")
    assert len(text) == 30
    assert "*" not in text


def test_mistakes():
    with pytest.raises(ValueError, match="there is no language 'partiy'; there are bucket-sort"):
        formal.language("partiy")
    with pytest.raises(ValueError, match=r"there is no task 'formal.nothing'"):
        task("formal.nothing")
    with pytest.raises(ValueError, match="no option depth; it has name"):
        task("formal.language", name="parity", depth=3)
    with pytest.raises(ValueError, match="lengths from 5 to 4"):
        lengths(np.random.default_rng(0), 2, 5, 4)
