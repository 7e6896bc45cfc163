"""Tasks on a text: the next byte, or the next word, in windows drawn from it. The measures of the suites run on them.

Of the documents end to end, the first 90 % are for training, the next 5 % for validation, the last 5 % for the test.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from exgate.data import text
from exgate.data.synthetic import Batch, Sample, Task

TRAINING, VALIDATION = 0.9, 0.95  # where these parts end, as shares of the text
EDGES = (10, 100, 1000, 10_000)  # of the groups of words by how often they occur in the training part
UNKNOWN = 0


def fingerprint(sources: Sequence[str]) -> str:
    """Twelve letters that change with the text of the sources, whatever they are called."""
    found = hashlib.sha256()
    for _, document in text.documents(sources):
        found.update(document.encode() + b"\0")
    return found.hexdigest()[:12]


def bytes_(sources: Sequence[str]) -> Task:
    """The next byte, at every step of windows from anywhere in the text; classes are the 256 bytes.

    Raises:
        ValueError: when sampling: a part is shorter than a window.
    """
    stream = b"\n".join(document.encode() for _, document in text.documents(sources))
    return _task(np.frombuffer(stream, np.uint8), 256)


def words(sources: Sequence[str], *, most: int = 20_000) -> Task:
    r"""The next word (what `str.split` leaves; lines end with a word of their own), with losses by frequency.

    The vocabulary is the `most` frequent words of the training part; all others are one word, with a group of
    its own, the last one. Groups are by the number of occurrences in the training part, in decades: up to 10, up to
    100, ... (the paper's own edges are not published: Beck et al. 2024, arXiv:2405.04517, figure 2).
    """
    lines = (line for _, document in text.documents(sources) for line in document.splitlines())
    stream = [word for line in lines for word in (*line.split(), "\n")]
    counts = Counter(stream[: int(TRAINING * len(stream))])
    counts.pop("\n", None)
    ranked = ["\n", *(word for word, _ in counts.most_common(most))]
    codes = {word: code for code, word in enumerate(ranked, 1)}
    tokens = np.array([codes.get(word, UNKNOWN) for word in stream], np.int32)
    frequency = np.bincount(tokens[: int(TRAINING * len(tokens))], minlength=1 + len(ranked))
    group = np.searchsorted(EDGES, frequency)
    group[UNKNOWN] = len(EDGES) + 1
    return _task(tokens, 1 + len(ranked), groups=group)


def _task(tokens: np.ndarray, vocabulary: int, **known) -> Task:
    ends = [int(share * len(tokens)) for share in (TRAINING, VALIDATION)]
    training, validation, test = (_windows(part) for part in np.split(tokens, ends))
    return Task(
        sample=training, validation=validation, test=test, vocabulary=vocabulary, outputs=vocabulary,
        chance=1 / vocabulary, along=True, **known,
    )  # fmt: skip


def _windows(tokens: np.ndarray) -> Sample:
    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        if len(tokens) <= longest:
            raise ValueError(
                f"excerpts: a part of the text has {len(tokens):,} tokens, but a window of {longest} and its targets "
                "need more. Give more text, or shorter windows."
            )
        places = rng.integers(0, len(tokens) - longest, rows)[:, None] + np.arange(longest + 1)
        window = tokens[places].astype(np.int64)
        return Batch(window[:, :-1], window[:, 1:])

    return sample
