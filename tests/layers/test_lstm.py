"""The LSTM layer: its shapes, its start, its errors. Its numbers are compared with torch.nn.LSTM in test_rnn.py."""

import pytest
import torch

from exgate.layers.lstm import LSTMLayer


def test_hidden_may_differ_from_dim():
    layer = LSTMLayer(5, hidden=12, heads=3)
    y, state = layer(torch.randn(2, 4, 5))
    assert y.shape == (2, 4, 12)
    assert state.h.shape == state.c.shape == (2, 3, 4)
    torch.testing.assert_close(y[:, -1], state.h.flatten(1))


def test_starts_as_torchs_with_a_forget_bias():
    layer = LSTMLayer(7, hidden=100, peepholes=True, forget_bias=2.0)
    for name, weight in layer.named_parameters():
        if name != "input.bias":
            assert weight.abs().max() <= 0.1
            assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.15)
    means = layer.input.bias.unflatten(0, (4, 100)).mean(1)
    torch.testing.assert_close(means, torch.tensor([0.0, 2.0, 0.0, 0.0]), rtol=0, atol=0.03)


def test_peepholes_see_the_cell():
    layer, x = LSTMLayer(4, hidden=6, peepholes=True, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    h, c = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for t in range(3):
        i, f, z, o = (layer.input(x[0, t]).view(4, 6) + layer.recurrent[:, 0] @ h).unbind()
        p = layer.peephole[:, 0]
        new = torch.sigmoid(f + p[1] * c) * c + torch.sigmoid(i + p[0] * c) * torch.tanh(z)
        h, c = torch.sigmoid(o + p[2] * new) * torch.tanh(new), new
    torch.testing.assert_close(layer(x)[0][0, -1], h)


def test_heads_have_to_divide():
    with pytest.raises(ValueError, match="LSTMLayer: hidden=10 is not a multiple of heads=4"):
        LSTMLayer(4, hidden=10, heads=4)


def test_forget_bias_spread_over_the_cells():
    layer = LSTMLayer(7, hidden=10_000, forget_bias=(1.0, 5.0))
    forget = layer.input.bias.unflatten(0, (4, -1))[1]
    torch.testing.assert_close(forget, torch.linspace(1, 5, 10_000), rtol=0, atol=0.01)
