"""The Mamba layer against its formulas, step by step, and its initial weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from exgate.layers.mamba import MambaLayer


def test_layer():
    layer = MambaLayer(12, state_size=5, bias=True, dtype=torch.float64)
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.3 * torch.randn_like(weight)
    x = torch.randn(7, 12, dtype=torch.float64)
    first, z = (x @ layer.in_proj.weight.T + layer.in_proj.bias).split(24, -1)
    padded = F.pad(first.T, (3, 0))[None]
    u = F.silu(F.conv1d(padded, layer.conv.weight[:, None], layer.conv.bias, groups=24)[0].T)
    r, b, c = (u @ layer.x_proj.weight.T).split([1, 5, 5], -1)
    delta = torch.log1p(torch.exp(r @ layer.dt_proj.weight.T + layer.dt_proj.bias))
    h, outputs = torch.zeros(24, 5, dtype=torch.float64), []
    for t in range(7):
        h = torch.exp(-delta[t, :, None] * layer.A_log.exp()) * h + delta[t, :, None] * b[t] * u[t, :, None]
        outputs.append(h @ c[t] + layer.D * u[t])
    wanted = (torch.stack(outputs) * F.silu(z)) @ layer.out_proj.weight.T + layer.out_proj.bias
    y, (_, state) = layer(x[None])
    torch.testing.assert_close(y[0], wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.h[0], h, rtol=1e-10, atol=1e-10)


def test_initial_weights():
    layer = MambaLayer(256, bias=True, blocks=4)
    assert (layer.inner_dim, layer.dt_rank) == (512, 16)
    for linear, scale in ((layer.in_proj, 1.0), (layer.x_proj, 1.0), (layer.out_proj, 0.5)):
        limit = scale / math.sqrt(linear.in_features)
        assert 0.99 * limit < linear.weight.abs().max() <= limit
    assert not layer.in_proj.bias.any()
    assert not layer.out_proj.bias.any()
    assert 0.24 < layer.dt_proj.weight.abs().max() <= 0.25
    torch.testing.assert_close(-layer.A_log.detach().exp(), -torch.arange(1.0, 17.0).expand(512, 16))
    assert (layer.D == 1).all()
    delta = F.softplus(layer.dt_proj.bias.detach())
    assert delta.min() > 0.99e-3
    assert delta.max() < 1.01e-1
    assert delta.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.2)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="MambaLayer: state is tuple; it should be"):
        MambaLayer(8)(torch.randn(1, 2, 8), (None, None, None))
