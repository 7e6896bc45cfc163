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
    norm, x = kind(12, eps=1e-3, offset=offset, dtype=torch.float64), 0.1 * torch.randn(2, 5, 12, dtype=torch.float64)
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
    norm, x = (
        HeadNorm(12, 3, eps=1e-3, offset=offset, rms=rms, dtype=torch.float64),
        torch.randn(2, 5, 3, 4, dtype=torch.float64),
    )
    with torch.no_grad():
        norm.weight.normal_()
    factor = 1 + norm.weight if offset else norm.weight
    torch.testing.assert_close(norm(x), normalised(x, 1e-3, rms).reshape(2, 5, 12) * factor)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm, HeadNorm])
def test_in_float32_and_rounded_once_to_the_inputs_type(kind, offset):
    norm = (
        HeadNorm(64, 2, eps=1e-6, offset=offset) if kind is HeadNorm else kind(64, eps=1e-6, offset=offset)
    ).bfloat16()
    with torch.no_grad():
        norm.weight.uniform_(0.0, 0.01) if offset else norm.weight.normal_()  # 1 + 0.003 is 1 in bfloat16
    x = (3 + torch.randn(50, 2, 32) if kind is HeadNorm else 3 + torch.randn(50, 64)).bfloat16()
    factor = norm.weight.double() + offset
    exact = normalised(x.double(), 1e-6, kind is RMSNorm).reshape(50, 64) * factor
    y = norm(x)
    assert y.dtype == torch.bfloat16
    assert (y != exact.bfloat16()).float().mean() < 0.01


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"HeadNorm: dim=10 is not a multiple of heads=4. Change one of them"):
        HeadNorm(10, 4)
