"""The feed-forward layer against its formula."""

import math

import pytest
import torch

from exgate.layers.ffn import ACTIVATIONS, FFN


def test_gate_comes_first_and_gelu_is_exact():
    layer, x = FFN(6, 10), torch.randn(2, 3, 6)
    y, state = layer(x)
    gate, factor = (x @ layer.up.weight.T).split(10, -1)
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    torch.testing.assert_close(y, (gelu * factor) @ layer.down.weight.T)
    assert state == ()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_gate(activation):
    layer, x = FFN(6, 10, activation=activation, gated=False, bias=True), torch.randn(2, 3, 6)
    assert layer.up.weight.shape == (10, 6)
    wanted = layer.down(ACTIVATIONS[activation](layer.up(x)))
    torch.testing.assert_close(layer(x)[0], wanted)


def test_relu2_squares():
    assert ACTIVATIONS["relu2"](torch.tensor([-2.0, 3.0])).tolist() == [0.0, 9.0]


def test_initial_weights():
    layer = FFN(256, 300, bias=True, blocks=6)
    assert layer.up.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.03)
    assert layer.down.weight.std().item() == pytest.approx(2 / 6 / 16, rel=0.03)
    assert not layer.up.bias.any()
    assert not layer.down.bias.any()


def test_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation is 'swish'; it should be one of gelu, silu"):
        FFN(4, 4, activation="swish")
