"""Beam search: the best sequences that a decoder can write, by their own scores."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exgate.ops.state import select


@dataclass(frozen=True)
class Hypothesis:
    """A sequence that the search found.

    Args:
        tokens: without the end token.
        score: sum of log-probabilities in nats, the end token's among them, over the length penalty.
        ended: with the end token, not by `max_tokens`.
        attention: (n, S), where the decoder looked for each token and for the end; None if its state has no weights.
    """

    tokens: list[int]
    score: float
    ended: bool
    attention: Tensor | None


@dataclass(frozen=True)
class _Prefix:
    """A row of the batch: the tokens so far (the start left out), their log-probability, and its attention rows."""

    tokens: tuple[int, ...]
    total: float
    seen: tuple[Tensor, ...]


@dataclass
class _Search:
    """One sentence: its prefixes that go on, and what has ended."""

    sentence: int
    live: list[_Prefix]
    ended: list[Hypothesis]


def length_penalty(n: int, alpha: float) -> float:
    r"""$((5 + n) / 6)^\alpha$ for n tokens, the end among them (Wu et al. 2016, arXiv:1609.08144, equation 14)."""
    return ((5 + n) / 6) ** alpha


def beam_search(
    model: Any,
    source: Tensor,
    lengths: Any = None,
    *,
    start: int,
    end: int,
    max_tokens: int,
    beam: int = 4,
    alpha: float = 0.6,
) -> list[list[Hypothesis]]:
    r"""The best targets of each source, by $\log p(y \mid x) / ((5 + |y|) / 6)^\alpha$.

    At each step the best `beam` continuations of a sentence are looked at: those that end are kept, and the best
    `beam` of those that do not go on. A sentence is done when `beam` hypotheses have ended. Equal scores are ordered by
    prefix and then by token: the first one wins. `beam=1` is greedy search. A sentence gets what it gets alone.

    Args:
        model: with `encode(source, lengths) -> state` and `step(tokens (B,), state) -> (logits (B, V), state)`, as
            `exgate.models.seq2seq`. The state's tensors have the batch first; if it has a field `weights` (B, S), the
            attention of the last step, the hypotheses keep it. Modules run in eval mode, and are put back after.
        source, lengths: (N, S) and (N,), or whatever `encode` takes; len(source) is N.
        start, end: the token before the first one, and the one that ends a target.
        max_tokens: at most so many tokens, the end not counted; at least 1.
        beam: hypotheses that are followed at once.
        alpha: 0 compares plain log-probabilities, which prefers short targets.
    Returns:
        For each source at most `beam` hypotheses, best first; those that did not end fill up the places left over.
    Raises:
        ValueError: beam or max_tokens is less than 1.
    Cost: max_tokens steps of N * beam rows each, and sorting N * beam * V scores.
    """
    if beam < 1 or max_tokens < 1:
        raise ValueError(f"beam_search: beam is {beam} and max_tokens {max_tokens}; both should be at least 1.")
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        with torch.no_grad():
            return _search(model, source, lengths, start, end, max_tokens, beam, alpha)
    finally:
        if training:
            model.train()


def _search(model: Any, source: Tensor, lengths: Any, start: int, end: int, limit: int, beam: int, alpha: float):
    state = model.encode(source, lengths)
    sizes = [source.shape[1]] * len(source) if lengths is None else torch.as_tensor(lengths).tolist()
    searches = [_Search(sentence, [_Prefix((), 0.0, ())], []) for sentence in range(len(source))]
    going = searches
    for n in range(1, limit + 2):  # the last step can only end
        last = [prefix.tokens[-1] if prefix.tokens else start for search in going for prefix in search.live]
        logits, state = model.step(torch.tensor(last, device=source.device), state)
        logp = logits.cpu().double().log_softmax(-1)
        weights = getattr(state, "weights", None)
        parents, row = [], 0
        for search in going:
            rows = range(row, row + len(search.live))
            seen = [None if weights is None else weights[r, : sizes[search.sentence]] for r in rows]
            chosen = _advance(search, logp[row : rows.stop], seen, end, beam, alpha, last_step=n > limit)
            parents += [row + place for place in chosen] if len(search.ended) < beam else []
            row = rows.stop
        going = [search for search in going if search.live and len(search.ended) < beam]
        if not going or n > limit:
            break
        state = select(state, torch.tensor(parents, device=source.device))
    return [_ranked(search, beam, alpha) for search in searches]


def _advance(
    search: _Search, logp: Tensor, seen: list[Tensor | None], end: int, beam: int, alpha: float, *, last_step: bool
) -> list[int]:
    """One token more: hypotheses that end leave, others go on. The places of those in what was live."""
    totals = logp + torch.tensor([prefix.total for prefix in search.live], dtype=logp.dtype)[:, None]
    before, live, places, left = search.live, [], [], dict(enumerate(search.live))
    # Each prefix ends in one way: among the best 2 * beam there are `beam` that go on, if there are so many at all.
    for rank, (total, place, token) in enumerate(_best(totals, 2 * beam)):
        prefix, weights = before[place], seen[place]
        maps = prefix.seen if weights is None else (*prefix.seen, weights)
        if token == end:
            if rank < beam:
                score = total / length_penalty(len(prefix.tokens) + 1, alpha)
                search.ended.append(_hypothesis(prefix.tokens, score, True, maps))
                del left[place]
        elif len(live) < beam and not last_step:
            live.append(_Prefix((*prefix.tokens, token), total, maps))
            places.append(place)
    search.live = list(left.values()) if last_step else live
    return places


def _best(totals: Tensor, count: int) -> list[tuple[float, int, int]]:
    """(score, row, column) of the `count` highest of (L, V), ties in the order of row and column, none of -inf."""
    flat = totals.flatten()
    count = min(count, len(flat))
    # topk alone leaves open which of several equal scores it takes: all that reach the last one are sorted, stably.
    lowest = flat.topk(count).values[-1]
    index = ((flat >= lowest) & (flat > -torch.inf)).nonzero()[:, 0]
    values, order = flat[index].sort(descending=True, stable=True)
    columns = totals.shape[1]
    return [
        (value, at // columns, at % columns)
        for value, at in zip(values[:count].tolist(), index[order][:count].tolist(), strict=True)
    ]


def _ranked(search: _Search, beam: int, alpha: float) -> list[Hypothesis]:
    ended = sorted(search.ended, key=lambda hypothesis: -hypothesis.score)[:beam]
    cut = [
        _hypothesis(prefix.tokens, prefix.total / length_penalty(len(prefix.tokens), alpha), False, prefix.seen)
        for prefix in search.live
    ]
    cut = sorted(cut, key=lambda hypothesis: -hypothesis.score)
    return ended + cut[: beam - len(ended)]


def _hypothesis(tokens: tuple[int, ...], score: float, ended: bool, seen: tuple[Tensor, ...]) -> Hypothesis:
    return Hypothesis(list(tokens), score, ended, torch.stack(seen).cpu() if seen else None)
