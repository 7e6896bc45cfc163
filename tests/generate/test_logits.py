"""Each filter on logits made by hand, the draw against its distribution, and the sampler's order and limits."""

import math

import pytest
import torch

from exgate.generate.logits import Sampler, draw, min_p, repetition_penalty, top_k, top_p

NONE = torch.zeros(1, 5, dtype=torch.bool)


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [[token for token, value in enumerate(row) if value > -torch.inf] for row in logits]


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


def test_repetition_penalty_lowers_both_signs():
    logits = torch.tensor([[2.0, -2.0, 0.0, 1.0]])
    seen = torch.tensor([[True, True, True, False]])
    assert repetition_penalty(logits, seen, 2.0).tolist() == [[1.0, -4.0, 0.0, 1.0]]
    assert repetition_penalty(logits, seen, 0.5).tolist() == [[4.0, -1.0, 0.0, 1.0]]


def test_top_k_keeps_ties():
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert kept(top_k(logits, 1)) == [[1], [0]]
    assert kept(top_k(logits, 2)) == [[1, 2, 3], [0, 1]]
    assert kept(top_k(logits, 3)) == [[1, 2, 3], [0, 1, 2]]
    assert kept(top_k(logits, 99)) == [[0, 1, 2, 3, 4]] * 2
    assert kept(top_k(torch.zeros(1, 3), 1)) == [[0, 1, 2]]


def test_top_p_keeps_the_token_that_crosses():
    logits = logs(0.1, 0.5, 0.15, 0.25)
    assert kept(top_p(logits, 0.4)) == [[1]]
    assert kept(top_p(logits, 0.6)) == [[1, 3]]
    assert kept(top_p(logits, 0.8)) == [[1, 2, 3]]
    assert kept(top_p(logits, 0.95)) == [[0, 1, 2, 3]]
    assert kept(top_p(logits, 1e-9)) == [[1]]
    # Equal probabilities: the first ones, so that it is the same each time.
    assert kept(top_p(torch.zeros(1, 4), 0.5)) == [[0, 1]]


def test_top_p_takes_each_row_for_itself():
    assert kept(top_p(torch.cat([logs(0.9, 0.05, 0.05), logs(0.3, 0.3, 0.4)]), 0.8)) == [[0], [0, 1, 2]]


def test_min_p_is_relative_to_the_best():
    logits = logs(0.5, 0.26, 0.24, 1e-3)
    assert kept(min_p(logits, 0.5)) == [[0, 1]]
    assert kept(min_p(logits, 0.4)) == [[0, 1, 2]]
    assert kept(min_p(logits, 1.0)) == [[0]]
    assert kept(min_p(logits, 0.0)) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_something_is_always_left(scale):
    logits = scale * torch.randn(64, 33)
    sampler = Sampler(temperature=1e-6, top_k=1, top_p=1e-6, min_p=1.0, repetition_penalty=9.0)
    seen = torch.rand(64, 33) < 0.5
    assert all(kept(sampler.filter(logits, seen)))
    assert all(kept(top_p(logits, 1e-12)))
    assert all(kept(min_p(logits, 1.0)))


def test_draw_is_the_inverse_of_the_cumulative_distribution():
    logits = logs(0.25, 0.0, 0.25, 0.5, 0.0).expand(6, 5)
    uniform = torch.tensor([0.0, 0.24, 0.26, 0.49, 0.51, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    # A token without probability is not drawn, not even with 0.
    assert draw(logs(0.0, 0.0, 0.5, 0.5), torch.zeros(1)).tolist() == [2]
    # Rounding may not lead past the last token with any probability, even for a "uniform" of 1.
    assert draw(logits, torch.ones(6, dtype=torch.float64)).tolist() == [3] * 6


def test_draws_follow_the_distribution():
    """Pearson's chi-squared over 200,000 draws: 8 degrees of freedom exceed 31.8 once in 10,000 times."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, -3.0, 1.1, 0.2, -0.4, 0.9])
    count = 200_000
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sampler = Sampler(temperature=0.7)
    tokens = sampler(logits.expand(count, -1), torch.zeros(count, 9, dtype=torch.bool), uniform)
    expected = count * (logits.double() / 0.7).softmax(-1)
    seen = torch.bincount(tokens, minlength=9).double()
    assert ((seen - expected) ** 2 / expected).sum() < 31.8


def test_filtered_draws_follow_the_rest_of_the_distribution():
    count = 100_000
    logits = logs(0.4, 0.3, 0.2, 0.1).expand(count, 4)
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    tokens = Sampler(top_k=3, top_p=0.6)(logits, torch.zeros(count, 4, dtype=torch.bool), uniform)
    # Of the best three (4/9, 3/9, 2/9), the first two make up 7/9.
    share = torch.bincount(tokens, minlength=4).double() / count
    assert share.tolist() == pytest.approx([4 / 7, 3 / 7, 0, 0], abs=0.01)


def test_greedy_takes_the_best_and_any_small_temperature_comes_near_it():
    logits = 10 * torch.randn(50, 20)
    none = torch.zeros(50, 20, dtype=torch.bool)
    best = logits.argmax(-1).tolist()
    assert Sampler(temperature=0)(logits, none, None).tolist() == best
    uniform = torch.rand(50, dtype=torch.float64)
    for temperature in (1e-8, 1e-40, 1e-320):
        assert Sampler(temperature=temperature)(logits, none, uniform).tolist() == best


def test_greedy_sees_the_penalty_and_the_vocabulary():
    logits = torch.tensor([[1.0, 4.0, 3.0, 0.0, 9.0]])
    assert Sampler(temperature=0)(logits, NONE, None).item() == 4
    assert Sampler(temperature=0, vocab_size=4)(logits, NONE, None).item() == 1
    seen = torch.tensor([[False, True, False, False, False]])
    assert Sampler(temperature=0, vocab_size=4, repetition_penalty=2.0)(logits, seen, None).item() == 2
    assert logits.tolist() == [[1.0, 4.0, 3.0, 0.0, 9.0]], "logits are not written to"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1}, {"temperature": math.inf}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0},
        {"top_p": 1.5}, {"min_p": -0.1}, {"min_p": 2.0}, {"repetition_penalty": 0.0}, {"vocab_size": 0},
    ],
)  # fmt: skip
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=f"generate: {next(iter(options))} is .*, but must be "):
        Sampler(**options)


def test_broken_logits_are_an_error():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="logits are NaN or infinite"):
            Sampler(temperature=0)(torch.tensor([[0.0, value, 1.0]]), NONE[:, :3], None)
