"""How well a model predicts text: loss per token, perplexity per token and per word, bits per byte."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exgate.models.cross_entropy import IGNORED
from exgate.ops.state import State, select


def score(
    model: Any,
    documents: Sequence[Sequence[int]],
    byte_counts: Sequence[int],
    word_counts: Sequence[int],
    *,
    window: int,
    end: int,
    stateful: bool = False,
    batch: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    r"""Score documents, each alone, by the rolling rule (Gao et al. 2023, lm-evaluation-harness).

    $\text{loss} = -\frac{1}{N} \sum_t \ln p(x_t \mid \text{context})$ over the N tokens of all documents;
    bits per byte = loss N / (ln 2 bytes); perplexity = exp(loss); per word, exp(loss N / words).

    The first token of a document is predicted from the token `end` alone. A document is cut into windows of `window`
    tokens that do not overlap, each starting from the empty state; the last one is filled up on its left with earlier
    tokens, of which only the new ones are scored. With `stateful` the state goes through the document from its
    beginning to its end instead, and `window` only bounds the memory. Both are the same for documents of up to `window`
    tokens. The token `end` after a document is not scored.

    Args:
        model: a language model: `model.loss(tokens, targets, state, reduction="none")`. It runs in eval mode.
        documents: token ids; those without a token count for nothing.
        byte_counts, word_counts: of each document's text: UTF-8 bytes, and what `str.split` leaves.
        window: T, the most tokens that a prediction can look back on (not with `stateful`).
        end: the token between documents.
        batch: windows (or documents) that are computed together; it changes the speed and nothing else.
        on_progress: called with the number of tokens scored since the last call.
    Returns:
        loss (nats per token), perplexity, word_perplexity, bits_per_byte, and the counts tokens, words, bytes and
        documents. A measure per word or byte is infinite where there are none.
    Raises:
        ValueError: there is nothing to score, lengths differ, or a token is not in the vocabulary.
    """
    if not len(documents) == len(byte_counts) == len(word_counts):
        raise ValueError(
            f"evaluate: {len(documents)} documents with {len(byte_counts)} byte counts and {len(word_counts)} word "
            "counts. Give one of each per document."
        )
    nats = losses(model, documents, window=window, end=end, stateful=stateful, batch=batch, on_progress=on_progress)
    return summary(nats, [len(document) for document in documents], byte_counts, word_counts)


def summary(
    nats: Sequence[float], tokens: Sequence[int], byte_counts: Sequence[int], word_counts: Sequence[int]
) -> dict[str, float]:
    """The measures of some documents together, weighted by their tokens: see `score`.

    Args:
        nats: the summed loss of each document, as `losses` gives it.
        tokens, byte_counts, word_counts: their sizes.
    Raises:
        ValueError: there is no token.
    """
    total, count, size, words = math.fsum(nats), sum(tokens), sum(byte_counts), sum(word_counts)
    if count == 0:
        raise ValueError("evaluate: the documents hold no tokens, so there is nothing to score. Give text.")
    return {
        "loss": total / count,
        "perplexity": _exp(total / count),
        "word_perplexity": _exp(total / words) if words else math.inf,
        "bits_per_byte": total / math.log(2) / size if size else math.inf,
        "tokens": count,
        "words": words,
        "bytes": size,
        "documents": sum(length > 0 for length in tokens),
    }


def losses(
    model: Any,
    documents: Sequence[Sequence[int]],
    *,
    window: int,
    end: int,
    stateful: bool = False,
    batch: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> list[float]:
    """The summed loss of each document in nats, 0 for one without tokens. Arguments and errors: see `score`."""
    if window < 1 or batch < 1:
        raise ValueError(f"evaluate: window is {window} and batch {batch}; both must be at least 1.")
    rows = _rows(model, documents, end)
    total = [0.0] * len(rows)
    run = _stateful if stateful else _windows
    with evaluating(model), torch.inference_mode():
        for numbers, nats, scored in run(model, rows, window, batch):
            for number, value in zip(numbers, nats.tolist(), strict=True):
                total[number] += value
            if on_progress is not None:
                on_progress(scored)
    return total


def spans(length: int, window: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, last) of each window over a document x_1 ... x_length behind the end token x_0.

    x_begin ... x_{last-1} are fed, and x_first ... x_last are scored: each token once.
    """
    for first in range(1, length + 1, window):
        last = min(first + window - 1, length)
        yield max(0, last - window), first, last


def _windows(model: Any, rows: list[Tensor], window: int, batch: int) -> Iterator[tuple[list[int], Tensor, int]]:
    """The rolling rule: (numbers of documents, their nats in this batch of windows, tokens scored)."""
    pieces = [(number, *span) for number, row in enumerate(rows) for span in spans(len(row) - 1, window)]
    # Windows of like length together: little of a batch is then padding.
    pieces.sort(key=lambda piece: piece[1] - piece[3])
    for start in range(0, len(pieces), batch):
        group = pieces[start : start + batch]
        inputs = [rows[number][begin:last] for number, begin, _, last in group]
        targets = [rows[number][begin + 1 : last + 1].clone() for number, begin, _, last in group]
        for target, (_, begin, first, _) in zip(targets, group, strict=True):
            target[: first - 1 - begin] = IGNORED
        nats, _ = _nats(model, inputs, targets, None)
        yield [piece[0] for piece in group], nats, sum(last - first + 1 for _, _, first, last in group)


def _stateful(model: Any, rows: list[Tensor], window: int, batch: int) -> Iterator[tuple[list[int], Tensor, int]]:
    """The state carried through each document: as `_windows`, `window` tokens of each document at a time."""
    order = sorted((number for number, row in enumerate(rows) if len(row) > 1), key=lambda number: -len(rows[number]))
    for start in range(0, len(order), batch):
        group, state, done = order[start : start + batch], None, 0
        while group:
            inputs = [rows[number][done : len(rows[number]) - 1][:window] for number in group]
            targets = [rows[number][done + 1 :][:window] for number in group]
            nats, state = _nats(model, inputs, targets, state)
            yield group, nats, sum(len(target) for target in targets)
            done += window
            # Only documents that end here had padding, and their states are not used again.
            left = [place for place, number in enumerate(group) if len(rows[number]) - 1 > done]
            if left and len(left) < len(group):
                state = select(state, torch.tensor(left, device=rows[0].device))
            group = [group[place] for place in left]


def _nats(model: Any, inputs: list[Tensor], targets: list[Tensor], state: State) -> tuple[Tensor, State]:
    """Summed loss per row (B,) in float64, and the state. Rows are padded on the right, where no target looks."""
    tokens = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    aims = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
    nll, state = model.loss(tokens, aims, state, reduction="none")
    return nll.double().sum(1), state


def _rows(model: Any, documents: Sequence[Sequence[int]], end: int) -> list[Tensor]:
    """Each document behind an end token, on the model's device."""
    device, size = next(model.parameters()).device, model.embed.weight.shape[0]
    rows = []
    for number, document in enumerate(documents):
        row = torch.from_numpy(np.concatenate([np.array([end]), np.asarray(document, np.int64)]))
        low, high = int(row.min()), int(row.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"evaluate: document {number} holds the token {high if high >= size else low}, but this model knows "
                f"the tokens 0 to {size - 1}. Use the tokenizer that it was trained with."
            )
        rows.append(row.to(device))
    if not any(len(row) > 1 for row in rows):
        raise ValueError("evaluate: the documents hold no tokens, so there is nothing to score. Give text.")
    return rows


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Inside the block the model drops nothing out."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _exp(value: float) -> float:
    return math.exp(value) if value < 709 else math.inf if value == value else value
