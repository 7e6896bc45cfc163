"""The convolution layer against torch's."""

import pytest
import torch
from torch.nn import functional as F

from exgate.layers.conv import CausalConv


@pytest.mark.parametrize("kernel", [1, 4])
def test_agrees_with_conv1d(kernel):
    layer, x = CausalConv(6, kernel), torch.randn(2, 9, 6)
    padded = F.pad(x.transpose(1, 2), (kernel - 1, 0))
    wanted = F.conv1d(padded, layer.weight[:, None], layer.bias, groups=6).transpose(1, 2)
    y, state = layer(x)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(state.x, x[:, 9 - (kernel - 1) :])


def test_initial_weights_are_conv1ds():
    layer = CausalConv(2000, 4)
    for weight in (layer.weight, layer.bias):
        assert weight.abs().max() <= 0.5
        assert weight.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.05)


def test_a_kernel_has_a_tap():
    with pytest.raises(ValueError, match="kernel is 0"):
        CausalConv(4, 0)
