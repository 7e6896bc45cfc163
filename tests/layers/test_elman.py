"""The vanilla recurrent layer beside torch.nn.RNN."""

import pytest
import torch

from exgate.layers.elman import RNNLayer


def test_it_is_torchs_rnn():
    layer = RNNLayer(5, hidden=12, dtype=torch.float64)
    theirs = torch.nn.RNN(5, 12, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(layer.input.weight)
        theirs.weight_hh_l0.copy_(layer.recurrent[0])
        theirs.bias_ih_l0.copy_(layer.input.bias)
        theirs.bias_hh_l0.zero_()
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    start = torch.randn(3, 12, dtype=torch.float64, requires_grad=True)
    _, state = layer(x[:, :1])
    ours, last = layer(x, type(state)(start[:, None]))
    wanted, end = theirs(x, start[None])
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(last.h[:, 0], end[0])
    weigh = torch.randn_like(ours)
    found = torch.autograd.grad(
        (ours * weigh).sum() + last.h.sum(), [x, start, layer.input.weight, layer.input.bias, layer.recurrent]
    )
    names = [x, start, theirs.weight_ih_l0, theirs.bias_ih_l0, theirs.weight_hh_l0]
    for a, b in zip(found, torch.autograd.grad((wanted * weigh).sum() + end.sum(), names), strict=True):
        torch.testing.assert_close(a.view_as(b), b)


def test_starts_as_torchs():
    layer = RNNLayer(7, hidden=100)
    for weight in layer.parameters():
        assert weight.abs().max() <= 0.1
        assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.15)


def test_heads_have_to_divide():
    with pytest.raises(ValueError, match="RNNLayer: hidden=10 is not a multiple of heads=4"):
        RNNLayer(4, hidden=10, heads=4)
