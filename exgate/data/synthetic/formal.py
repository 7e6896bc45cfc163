"""Formal languages of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517, appendix B.1.1).

All keep one protocol. A sequence is a question and its answer, together of length n, uniform from the shortest to the
longest. Token 0 is padding, sequences stand at the left. In the input the answer is replaced by padding, so nothing of
it is ever read; in the targets everything else is ignored; then they are shifted by one: an answer of one token is
predicted at the last token of the question. Tasks follow Delétang et al. 2023, arXiv:2207.02098, where not said.

A `Language` draws rows of one length: (rng, rows, n) -> question (rows, q) and answer (rows, a) with q + a <= n, where
0 in an answer is nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from exgate.data.synthetic import IGNORED, Batch, Task, lengths

Drawn = tuple[np.ndarray, np.ndarray]


class Language(NamedTuple):
    """vocabulary: with padding; guesses: answers that are equally likely for who knows the task, not the question."""

    draw: Callable[[np.random.Generator, int, int], Drawn]
    vocabulary: int
    guesses: int
    shortest: int


def language(name: str) -> Task:
    """A task of `LANGUAGES`; its lengths are those of question and answer together.

    Raises:
        ValueError: there is no such language, or lengths are below the shortest sequence that it has.
    """
    if name not in LANGUAGES:
        raise ValueError(f"formal: there is no language '{name}'; there are {', '.join(LANGUAGES)}.")
    draw, vocabulary, guesses, least = LANGUAGES[name]

    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        if shortest < least:
            raise ValueError(f"formal: {name} has sequences of length {least} and more; shortest is {shortest}.")
        tokens = np.zeros((rows, longest), np.int64)
        asked = np.zeros((rows, longest), bool)
        sizes = lengths(rng, rows, shortest, longest)
        for n in np.unique(sizes):
            place = np.flatnonzero(sizes == n)
            question, answer = draw(rng, len(place), int(n))
            width, end = question.shape[1], question.shape[1] + answer.shape[1]
            tokens[place, :width] = question
            tokens[place, width:end] = answer
            asked[place, width:end] = answer > 0
        inputs = np.where(asked, 0, tokens)
        targets = np.where(asked, tokens, IGNORED)
        return Batch(inputs[:, :-1], targets[:, 1:])

    return Task(sample=sample, vocabulary=vocabulary, outputs=vocabulary, chance=1 / guesses)


def parity(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """a b b a <b>: tokens 1 and 2; the answer is 2 where the number of 2s is odd."""
    question = rng.integers(1, 3, (rows, n - 1))
    return question, _column((question == 2).sum(1) % 2 + 1)


def even_pairs(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """Is the number of ab and ba even? It is (answer 1) where the first token is the last, else 2."""
    question = rng.integers(1, 3, (rows, n - 1))
    return question, _column(1 + (question[:, 0] != question[:, -1]))


def cycle_navigation(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """Tokens 1: stay, 2: one step on, 3: one step back, on a cycle of five; the answer is the place, 4 to 8."""
    question = rng.integers(1, 4, (rows, n - 1))
    steps = np.array([0, 0, 1, -1])[question]
    return question, _column(steps.sum(1) % 5 + 4)


def modular_arithmetic(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """d op d op d = <value>: 1 to 4 are + - * =, 5 to 9 the digits; * binds tighter; modulo five. n odd, else n - 1."""
    numbers = (n - 1) // 2
    digits, ops = rng.integers(0, 5, (rows, numbers)), rng.integers(1, 4, (rows, numbers - 1))
    question = np.full((rows, 2 * numbers), 4)
    question[:, ::2], question[:, 1:-1:2] = digits + 5, ops
    total, term = np.zeros(rows, np.int64), digits[:, 0]
    for place in range(numbers - 1):
        op, digit = ops[:, place], digits[:, place + 1]
        total = np.where(op == 3, total, total + term)
        term = np.where(op == 3, term * digit % 5, np.where(op == 1, digit, -digit))
    return question, _column((total + term) % 5 + 5)


def modular_arithmetic_brackets(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """((2)*-2) = <value>, modulo five: 1 to 6 are + - * = ( ), 7 to 11 the digits."""
    drawn = [expression(rng, n - 2, "+-*") for _ in range(rows)]
    question = [_spell(text + "=", _BRACKETS) for text, _ in drawn]
    return np.array(question), _column(np.array([value for _, value in drawn]) + 7)


def solve_equation(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """((2+0)+-x)-(1)=2 [ACT] <x>, modulo five, without *, so that x is unique: + - * = ( ) x ACT are 1 to 8."""
    questions, answers = [], []
    for _ in range(rows):
        text, value = expression(rng, n - 4, "+-")
        places = [place for place, letter in enumerate(text) if letter.isdigit()]
        # A uniform place, moved on to the next digit; the last part of an expression may hold none, but brackets.
        start = int(rng.integers(len(text)))
        place = next((place for place in places if place >= start), places[-1])
        questions.append(_spell(f"{text[:place]}x{text[place + 1 :]}={value}A", _EQUATION))
        answers.append(int(text[place]) + 9)
    return np.array(questions), _column(np.array(answers))


def bucket_sort(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """1 4 8 6 1 <1 1 4 6 8>: ten tokens."""
    question = rng.integers(1, 11, (rows, n // 2))
    return question, np.sort(question, 1)


def missing_duplicate(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """w w' <x>: w' is w with one token hidden by 1, and x is that token, of 2 to 10."""
    size = (n - 1) // 2
    word = rng.integers(2, 11, (rows, size))
    place, row = rng.integers(0, size, rows), np.arange(rows)
    again = word.copy()
    again[row, place] = 1
    return np.concatenate([word, again], 1), _column(word[row, place])


def majority(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """Tokens 1 to 63; the answer is the most frequent one, the smallest of several."""
    question = rng.integers(1, 64, (rows, n - 1))
    return question, _column(_counts(question).argmax(1))


def majority_count(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """Tokens 1 to 63; the answer is how often the most frequent one occurs, at most 63."""
    question = rng.integers(1, 64, (rows, n - 1))
    return question, _column(np.minimum(_counts(question).max(1), 63))


def odds_first(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """t [ACT] <t1 t3 .. t2 t4 ..>: ACT is 1, the tokens are 2 to 11."""
    word, question = _transcribed(rng, rows, n)
    return question, np.concatenate([word[:, ::2], word[:, 1::2]], 1)


def repetition(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """t [ACT] <t>."""
    word, question = _transcribed(rng, rows, n)
    return question, word


def reverse(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """t [ACT] <t reversed>."""
    word, question = _transcribed(rng, rows, n)
    return question, word[:, ::-1]


def stack_manipulation(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """A stack, pops and pushes, [ACT] <the stack from its bottom up>.

    1 to 4 are the symbols of the first stack and of the answer, 5 to 8 push them, 9 pops (nothing, if it is empty), 10
    is ACT. All rows of a draw begin with equally many symbols, at least one; a third of the actions are pops.
    """
    size = (n - 1) // 2
    begin = int(rng.integers(1, size + 1))
    first, pushed = rng.integers(1, 5, (rows, begin)), rng.integers(1, 5, (rows, size - begin))
    pops = rng.random((rows, size - begin)) < 1 / 3
    stack = np.zeros((rows, size), np.int64)
    stack[:, :begin], height, row = first, np.full(rows, begin), np.arange(rows)
    for symbol, pop in zip(pushed.T, pops.T, strict=True):
        stack[row[~pop], height[~pop]] = symbol[~pop]
        height = np.where(pop, np.maximum(height - 1, 0), height + 1)
    answer = np.where(np.arange(size) < height[:, None], stack, 0)
    actions = np.where(pops, 9, pushed + 4)
    return np.concatenate([first, actions, np.full((rows, 1), 10)], 1), answer


def set_(rng: np.random.Generator, rows: int, n: int) -> Drawn:
    """t [ACT] <the distinct tokens in the order in which they first occur>: ACT is 1, the tokens are 2 to 127."""
    word, question = _transcribed(rng, rows, n, tokens=126)
    same = word[:, :, None] == word[:, None, :]
    new = ~np.tril(same, -1).any(2)
    order = np.argsort(~new, 1, kind="stable")
    return question, np.where(np.take_along_axis(new, order, 1), np.take_along_axis(word, order, 1), 0)


def expression(rng: np.random.Generator, length: int, ops: str) -> tuple[str, int]:
    """A random expression of `length` letters and its value modulo five (the generator of Delétang et al. 2023)."""
    if length < 5:
        digit = int(rng.integers(5))
        form, sign = [("{}", 1), ("-{}", -1), ("({})", 1), ("(-{})", -1)][length - 1]
        return form.format(digit), sign * digit % 5
    left = int(rng.integers(1, length - 3))
    (a, x), (b, y) = expression(rng, left, ops), expression(rng, length - 3 - left, ops)
    op = ops[int(rng.integers(len(ops)))]
    value = x + y if op == "+" else x - y if op == "-" else x * y
    return f"({a}{op}{b})", value % 5


_BRACKETS = {letter: place for place, letter in enumerate("+-*=()01234", 1)}
_EQUATION = {letter: place for place, letter in enumerate("+-*=()xA01234", 1)}


def _spell(text: str, codes: dict[str, int]) -> list[int]:
    return [codes[letter] for letter in text]


def _column(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64)[:, None]


def _counts(tokens: np.ndarray) -> np.ndarray:
    """(rows, 64): how often each token occurs in each row."""
    rows = len(tokens)
    return np.bincount((tokens + 64 * np.arange(rows)[:, None]).ravel(), minlength=64 * rows).reshape(rows, 64)


def _transcribed(rng: np.random.Generator, rows: int, n: int, tokens: int = 10) -> Drawn:
    """A word of tokens from 2 on, and the word with ACT behind it: half of n each."""
    word = rng.integers(2, 2 + tokens, (rows, (n - 1) // 2))
    return word, np.pad(word, ((0, 0), (0, 1)), constant_values=1)


# In the order of the paper's heat map, then of its supplement: context-sensitive, deterministic context-free, regular,
# counting; and the five on which no model of the paper passes 0.3.
LANGUAGES: dict[str, Language] = {
    "bucket-sort": Language(bucket_sort, 11, 10, 2),
    "missing-duplicate": Language(missing_duplicate, 11, 9, 3),
    "mod-arithmetic-brackets": Language(modular_arithmetic_brackets, 12, 5, 3),
    "solve-equation": Language(solve_equation, 14, 5, 5),
    "cycle-nav": Language(cycle_navigation, 9, 5, 2),
    "even-pairs": Language(even_pairs, 3, 2, 3),
    "mod-arithmetic": Language(modular_arithmetic, 10, 5, 3),
    "parity": Language(parity, 3, 2, 2),
    "majority": Language(majority, 64, 63, 2),
    "majority-count": Language(majority_count, 64, 63, 2),
    "odds-first": Language(odds_first, 12, 10, 3),
    "reverse": Language(reverse, 12, 10, 3),
    "stack": Language(stack_manipulation, 11, 4, 3),
    "repetition": Language(repetition, 12, 10, 3),
    "set": Language(set_, 128, 126, 3),
}
