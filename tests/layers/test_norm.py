"""Norms against their formulas, both weight conventions, statistics in float32."""

import pytest
import torch

from exgate.layers.norm import HeadNorm, LayerNorm, RMSNorm


def normalised(x, eps, rms):
    x = x if rms else x - x.mean(-1, keepdim=True)
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_norm_over_the_width(kind, offset):
    norm, x = kind(12, 1e-3, offset, dtype=torch.float64), 0.1 * torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(norm(x), normalised(x, 1e-3, kind is RMSNorm))  # the initial factor is one
    with torch.no_grad():
        norm.weight.normal_()
    factor = 1 + norm.weight if offset else norm.weight
    torch.testing.assert_close(norm(x), normalised(x, 1e-3, kind is RMSNorm) * factor)


def test_layer_norm_with_bias():
    norm, x = LayerNorm(6, bias=True), torch.randn(3, 6)
    with torch.no_grad():
        norm.bias.normal_()
    torch.testing.assert_close(norm(x), normalised(x, 1e-5, False) + norm.bias)
    norm.reset_parameters()
    assert not norm.bias.any()


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("rms", [False, True])
def test_norm_over_each_head(offset, rms):
    norm, x = HeadNorm(12, 3, 1e-3, offset, rms, dtype=torch.float64), torch.randn(2, 5, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.normal_()
    factor = 1 + norm.weight if offset else norm.weight
    torch.testing.assert_close(norm(x), normalised(x, 1e-3, rms).reshape(2, 5, 12) * factor)


@pytest.mark.parametrize("norm", [RMSNorm(64), LayerNorm(64), HeadNorm(64, 1, rms=True)], ids=["rms", "layer", "head"])
def test_statistics_in_float32_and_output_in_the_inputs_type(norm):
    x = (100 + torch.randn(4, 1, 64)).bfloat16()
    y = norm.bfloat16()(x)
    assert y.dtype == torch.bfloat16
    exact = normalised(x.double(), norm.eps, not isinstance(norm, LayerNorm)).reshape(y.shape)
    assert (y.double() - exact).abs().max() < 0.01 * exact.abs().max()  # half a unit in the last place, no more


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"HeadNorm: dim=10 is not a multiple of heads=4. Change one of them"):
        HeadNorm(10, 4)
