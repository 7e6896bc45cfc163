"""The sLSTM layers against the formulas of the paper, step by step, and their initial weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from exgate.layers.slstm import DenseSLSTMLayer, SLSTMLayer


def shaken(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.5 * torch.randn_like(weight)
    return layer


def recurrence(gates, r):
    """gates (T, 4, H, K) without any stabiliser: exponentials as they are written in the paper."""
    h = c = n = torch.zeros_like(gates[0, 0])
    outputs = []
    for gate in gates:
        i, f, z, o = gate + torch.einsum("ghab,hb->gha", r, h)
        c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
        n = torch.sigmoid(f) * n + torch.exp(i)
        h = torch.sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("kernel", [4, 0])
def test_layer_of_the_paper(kernel):
    layer = shaken(SLSTMLayer(12, heads=3, conv_kernel=kernel, dtype=torch.float64))
    x = torch.randn(7, 12, dtype=torch.float64)
    u = x
    if kernel:
        padded = F.pad(x.T, (3, 0))[None]
        u = F.silu(F.conv1d(padded, layer.conv.weight[:, None], layer.conv.bias, groups=12)[0].T)
    names, sources = ("igate", "fgate", "zgate", "ogate"), (u, u, x, x)
    raw = [
        source @ torch.block_diag(*getattr(layer, name).weight).T for name, source in zip(names, sources, strict=True)
    ]
    h = recurrence(torch.stack(raw, 1).view(7, 4, 3, 4) + layer.bias, layer.recurrent)
    h = (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, correction=0, keepdim=True) + 1e-5)
    torch.testing.assert_close(layer(x[None])[0][0], h.flatten(1) * (1 + layer.norm.weight))


def test_dense_layer_returns_h():
    layer = shaken(DenseSLSTMLayer(5, hidden=12, heads=3, dtype=torch.float64))
    x = torch.randn(1, 7, 5, dtype=torch.float64)
    y, state = layer(x)
    torch.testing.assert_close(y[0], recurrence(layer.input(x[0]).view(7, 4, 3, 4), layer.recurrent).flatten(1))
    torch.testing.assert_close(y[:, -1], state.h.flatten(1))


def test_initial_weights():
    layer = SLSTMLayer(256, heads=2, block=1, blocks=3)
    for gate in (layer.igate, layer.fgate, layer.zgate, layer.ogate):
        assert gate.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.05)
    assert not layer.recurrent.any()
    assert not layer.bias[[0, 2, 3]].any()
    wanted = torch.tensor([5 - 12 * (j / 127) ** (0.3 + 1.3 * 0.5) for j in range(128)])
    torch.testing.assert_close(layer.bias[1].detach(), wanted.expand(2, 128))
    assert not layer.norm.weight.any()


def test_one_cell_per_head_is_finite():
    layer = SLSTMLayer(4, heads=4)
    assert layer.bias.isfinite().all()
    assert layer(torch.randn(1, 3, 4))[0].isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match="SLSTMLayer: dim=10 is not a multiple of heads=4"):
        SLSTMLayer(10)
    with pytest.raises(ValueError, match=r"SLSTMLayer: state is Tensor; it should be \(ConvState, state of the cell\)"):
        SLSTMLayer(8)(torch.randn(1, 2, 8), torch.zeros(1))
