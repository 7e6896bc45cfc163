"""The attention layer: its shapes, its start, its errors. The op has its own tests."""

import math

import pytest
import torch

from exgate.layers import AttentionLayer
from exgate.layers.stack import ragged


def test_shapes_and_start():
    layer = AttentionLayer(128, heads=8, kv_heads=2, blocks=6)
    assert layer.k.weight.shape == layer.v.weight.shape == (32, 128)
    for linear in (layer.q, layer.k, layer.v):
        assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 128), rel=0.05)
    assert layer.out.weight.std().item() == pytest.approx(2 / 6 / math.sqrt(128), rel=0.05)
    assert all(linear.bias is None for linear in (layer.q, layer.k, layer.v, layer.out))
    y, state = layer(torch.randn(3, 5, 128))
    assert y.shape == (3, 5, 128)
    assert state.k.shape == state.v.shape == (3, 5, 2, 16)
    assert state.position.tolist() == [5, 5, 5]


def test_rows_of_unequal_length():
    """Their states have a length each: the shorter ones get zeros in front."""
    layer, x = AttentionLayer(16, dtype=torch.float64), torch.randn(3, 7, 16, dtype=torch.float64)
    y, state = ragged(layer, x, [2, 7, 4])
    more = torch.randn(3, 3, 16, dtype=torch.float64)
    for row, length in enumerate([2, 7, 4]):
        whole, _ = layer(torch.cat([x[row : row + 1, :length], more[row : row + 1]], 1))
        torch.testing.assert_close(y[row, :length], whole[0, :length])
        torch.testing.assert_close(layer(more, state)[0][row], whole[0, length:])


def test_errors():
    with pytest.raises(ValueError, match="AttentionLayer: dim=10 is not a multiple of heads=4"):
        AttentionLayer(10, heads=4)
    with pytest.raises(ValueError, match="AttentionLayer: heads=4 is not a multiple of kv_heads=3"):
        AttentionLayer(16, heads=4, kv_heads=3)
