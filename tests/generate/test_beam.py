"""Beam search: against all sequences there are, greedy search, and sentences that stand alone."""

import itertools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from exgate.generate.beam import beam_search, length_penalty

END = 0


class State(NamedTuple):
    key: Tensor  # (B,)
    text: Tensor  # (B, n) the tokens so far
    weights: Tensor  # (B, S)


class Table:
    """A decoder whose next token depends on the source and on all tokens so far, by chance."""

    def __init__(self, vocab: int, seed: int = 0, flat: bool = False) -> None:
        self.vocab, self.seed, self.flat = vocab, seed, flat

    def encode(self, source: Tensor, lengths=None) -> State:
        return State(source.sum(1), torch.zeros(len(source), 0, dtype=torch.long), torch.zeros(source.shape))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        text = torch.cat([state.text, tokens[:, None]], 1)
        logits = [self.logits(int(key), row.tolist()) for key, row in zip(state.key, text, strict=True)]
        return torch.stack(logits), State(state.key, text, state.weights + tokens[:, None])

    def logits(self, key: int, text: list[int]) -> Tensor:
        if self.flat:
            return torch.zeros(self.vocab)
        chance = torch.Generator().manual_seed(hash((self.seed, key, *text)) % 2**31)
        return 2 * torch.randn(self.vocab, generator=chance)

    def total(self, key: int, tokens: list[int]) -> float:
        """log-probability of tokens after the start."""
        text, total = [END], 0.0
        for token in tokens:
            total += self.logits(key, text).double().log_softmax(0)[token].item()
            text.append(token)
        return total


SOURCE = torch.tensor([[1, 2], [3, 4], [5, 1], [2, 2]])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("vocab, limit", [(3, 4), (4, 3), (2, 5)])
def test_wide_enough_it_finds_the_best_of_all(vocab: int, limit: int, alpha: float):
    model = Table(vocab)
    found = beam_search(model, SOURCE, start=END, end=END, max_tokens=limit, beam=vocab ** (limit + 1), alpha=alpha)
    for row, hypotheses in zip(SOURCE, found, strict=True):
        every = []
        for n in range(limit + 1):
            for tokens in itertools.product(range(1, vocab), repeat=n):
                total = model.total(int(row.sum()), [*tokens, END])
                every.append((total / length_penalty(n + 1, alpha), list(tokens)))
        every.sort(reverse=True)
        ended = [h for h in hypotheses if h.ended]
        assert [h.tokens for h in ended] == [tokens for _, tokens in every]
        assert [h.score for h in ended] == pytest.approx([score for score, _ in every])


def test_the_limit_leaves_what_did_not_end():
    model = Table(3)
    (found, *_) = beam_search(model, SOURCE, start=END, end=END, max_tokens=2, beam=100, alpha=0.0)
    assert all(len(h.tokens) == 2 for h in found if not h.ended)
    assert sorted(h.tokens for h in found if h.ended) == [[], [1], [1, 1], [1, 2], [2], [2, 1], [2, 2]]
    model.logits = lambda key, text: torch.tensor([-1e9, 1.0, 0.5])
    found = beam_search(model, SOURCE[:1], start=END, end=END, max_tokens=2, beam=2, alpha=0.0)[0]
    assert [(h.tokens, h.ended) for h in found] == [([1, 1], False), ([1, 2], False)]


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_of_one_is_greedy(seed: int):
    model = Table(6, seed)
    found = beam_search(model, SOURCE, start=END, end=END, max_tokens=7, beam=1)
    for row, (best,) in zip(SOURCE, found, strict=True):
        tokens: list[int] = []
        while len(tokens) < 8 and END not in tokens:
            tokens.append(int(model.logits(int(row.sum()), [END, *tokens]).argmax()))
        ended = END in tokens
        tokens = tokens[:-1] if ended else tokens[:7]
        assert (best.tokens, best.ended) == (tokens, ended)
        total = model.total(int(row.sum()), [*tokens, END] if ended else tokens)
        assert best.score == pytest.approx(total / length_penalty(len(tokens) + ended, 0.6))


@pytest.mark.parametrize("beam", [2, 5])
def test_a_sentence_gets_what_it_gets_alone(beam: int):
    model = Table(5)
    options = {"start": END, "end": END, "max_tokens": 6, "beam": beam}
    together = beam_search(model, SOURCE, **options)
    for row in range(len(SOURCE)):
        alone = beam_search(model, SOURCE[row : row + 1], **options)[0]
        assert [(h.tokens, h.score) for h in together[row]] == [(h.tokens, h.score) for h in alone]
        assert len(alone) == beam
        order = [(h.ended, h.score) for h in alone]
        assert order == sorted(order, reverse=True)


def test_a_wider_beam_is_no_worse_here():
    best = [
        [hs[0].score for hs in beam_search(Table(5), SOURCE, start=END, end=END, max_tokens=6, beam=beam, alpha=0.0)]
        for beam in (1, 20)
    ]
    assert all(wide >= narrow for narrow, wide in zip(*best, strict=True))


def test_equal_scores_come_in_the_order_of_their_tokens():
    model = Table(4, flat=True)
    runs = [beam_search(model, SOURCE, start=END, end=END, max_tokens=2, beam=3, alpha=0.0) for _ in range(2)]
    for hypotheses in runs[0]:
        assert [h.tokens for h in hypotheses] == [[], [1], [1, 1]]
    assert [[h.tokens for h in row] for row in runs[0]] == [[h.tokens for h in row] for row in runs[1]]


def test_attention_follows_its_hypothesis():
    model = Table(5)
    lengths = torch.tensor([2, 1, 2, 2])
    for row, hypotheses in enumerate(beam_search(model, SOURCE, lengths, start=END, end=END, max_tokens=5, beam=4)):
        for found in hypotheses:
            # The decoder above looks at each place with the sum of what it has read.
            read = torch.tensor([END, *found.tokens]).cumsum(0)[: len(found.tokens) + found.ended]
            assert found.attention is not None
            assert torch.equal(found.attention, read[:, None].expand(-1, int(lengths[row])).float())


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="beam is 0 and max_tokens 5; both should be at least 1"):
        beam_search(Table(3), SOURCE, start=END, end=END, max_tokens=5, beam=0)
