"""Losses by position against single rows, and the perplexities that they make."""

import math

import pytest
import torch

from exgate.evaluate import extrapolate
from exgate.models import xlstm


@pytest.mark.parametrize("batch", [1, 3])
def test_losses_by_position(batch):
    model = xlstm.build(xlstm.Config(vocab_size=11, dim=16, blocks=2, heads=2, pattern="ms", dropout=0.5))
    tokens, counts = torch.randint(10, (66,)).tolist(), []
    found = extrapolate.losses(model, tokens, length=16, end=10, batch=batch, on_progress=counts.append)
    assert sum(counts) == 64
    assert model.training
    model.eval()
    expected = torch.zeros(16)
    for row in range(4):
        text = torch.tensor([[10, *tokens[16 * row : 16 * row + 16]]])
        logits, _ = model(text[:, :-1])
        expected += torch.nn.functional.cross_entropy(logits[0], text[0, 1:], reduction="none").detach() / 4
    torch.testing.assert_close(found.float(), expected)


def test_perplexities():
    assert extrapolate.perplexities(torch.tensor([1.0, 1.0, 3.0, 3.0, 9.0]), 2) == {1: math.e, 2: math.exp(2.0)}
