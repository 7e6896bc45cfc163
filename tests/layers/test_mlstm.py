"""The mLSTM layers against the formulas of the papers, step by step, and their initial weights."""

import math

import pytest
import torch
from torch.nn import functional as F

from exgate.layers.mlstm import MLSTM7BLayer, MLSTMLayer


def shaken(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return layer


def recurrence(q, k, v, i, f, eps=1e-6):
    """q, k (T, H, K), v (T, H, V), i, f (T, H), with the published stabiliser, from an empty state of m = 0."""
    heads, size = q.shape[1:]
    c, n, m = q.new_zeros(heads, size, v.shape[-1]), q.new_zeros(heads, size), q.new_zeros(heads)
    outputs = []
    for t in range(len(q)):
        log_f = F.logsigmoid(f[t])
        new = torch.maximum(log_f + m, i[t])
        keep, add, m = torch.exp(log_f + m - new)[:, None], torch.exp(i[t] - new)[:, None], new
        key = k[t] / math.sqrt(size)
        c = keep[..., None] * c + add[..., None] * key[..., None] * v[t][:, None]
        n = keep * n + add * key
        norm = torch.maximum((n * q[t]).sum(-1).abs(), torch.exp(-m)) + eps
        outputs.append(torch.einsum("hk,hkv->hv", q[t], c) / norm[:, None])
    return torch.stack(outputs)


def heads_normed(h, eps):
    return ((h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, correction=0, keepdim=True) + eps)).flatten(1)


def test_layer_of_the_2024_paper():
    layer = shaken(MLSTMLayer(24, heads=2, dtype=torch.float64))
    x = torch.randn(7, 24, dtype=torch.float64)
    a, z = (x @ layer.up.weight.T).split(64, -1)  # 48 is rounded up to 64
    padded = F.pad(a.T, (3, 0))[None]
    u = F.silu(F.conv1d(padded, layer.conv.weight[:, None], layer.conv.bias, groups=64)[0].T)
    q, k, v = (y @ torch.block_diag(*w.weight).T for y, w in zip((u, u, a), (layer.q, layer.k, layer.v), strict=True))
    gates = torch.cat([q, k, v], 1)
    i = gates @ layer.igate.weight.T + layer.igate.bias
    f = gates @ layer.fgate.weight.T + layer.fgate.bias
    h = heads_normed(recurrence(*(y.view(7, 2, 32) for y in (q, k, v)), i, f), 1e-5) * (1 + layer.norm.weight)
    wanted = ((h + layer.skip * u) * F.silu(z)) @ layer.down.weight.T
    torch.testing.assert_close(layer(x[None])[0][0], wanted, rtol=1e-10, atol=1e-10)


def test_layer_of_xlstm_7b():
    layer = shaken(MLSTM7BLayer(24, heads=3, qk_dim=12, v_dim=18, dtype=torch.float64))
    with torch.no_grad():
        layer.igate.bias += 20.0  # so that the cap is felt, and the gate is not closed
    x = torch.randn(7, 24, dtype=torch.float64)
    i, f = (15 * torch.tanh((x @ g.weight.T + g.bias) / 15) for g in (layer.igate, layer.fgate))
    q, k, v, o = (x @ linear.weight.T for linear in (layer.q, layer.k, layer.v, layer.ogate))
    h = heads_normed(recurrence(q.view(7, 3, 4), k.view(7, 3, 4), v.view(7, 3, 6), i, f), 1e-6) * layer.norm.weight
    wanted = (torch.sigmoid(o) * h) @ layer.out.weight.T
    torch.testing.assert_close(layer(x[None])[0][0], wanted, rtol=1e-10, atol=1e-10)


def test_initial_weights_of_the_2024_layer():
    layer = MLSTMLayer(256, bias=True, blocks=5)
    for linear in (layer.up, layer.q, layer.k, layer.v):
        assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.06)
        assert not linear.bias.any()
    assert layer.down.weight.std().item() == pytest.approx(2 / 5 / 16, rel=0.03)
    assert not layer.igate.weight.any()
    assert not layer.fgate.weight.any()
    torch.testing.assert_close(layer.fgate.bias.detach(), torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert 0 < layer.igate.bias.abs().max() < 0.5
    assert (layer.skip == 1).all()
    assert not layer.norm.weight.any()


def test_initial_weights_of_the_7b_layer():
    layer = MLSTM7BLayer(256, heads=4, bias=True, blocks=5)
    assert layer.q.weight.shape == layer.k.weight.shape == (128, 256)
    for linear in (layer.q, layer.k, layer.v):
        assert linear.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.03)
    assert layer.out.weight.std().item() == pytest.approx(2 / 5 / 16, rel=0.03)
    for gate in (layer.igate, layer.fgate, layer.ogate):
        assert not gate.weight.any()
    assert (layer.igate.bias == -10).all()
    torch.testing.assert_close(layer.fgate.bias.detach(), torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert not layer.ogate.bias.any()
    assert (layer.norm.weight == 1).all()


def test_soft_cap_of_zero_caps_nothing():
    layer, x = MLSTM7BLayer(8, heads=2, gate_soft_cap=0.0), torch.randn(1, 3, 8)
    with torch.no_grad():
        layer.igate.bias.fill_(40.0)
    _, state = layer(x)
    assert (state.m > 30).all()
    layer.gate_soft_cap = 15.0
    _, state = layer(x)
    assert (state.m < 15).all()


def test_errors():
    with pytest.raises(ValueError, match="MLSTMLayer: inner width=64 is not a multiple of heads=3"):
        MLSTMLayer(24, heads=3)
    with pytest.raises(ValueError, match="inner width=64 is not a multiple of qkv_block=60"):
        MLSTMLayer(24, qkv_block=60)
    with pytest.raises(ValueError, match="MLSTM7BLayer: qk_dim=12 is not a multiple of heads=8"):
        MLSTM7BLayer(24, heads=8)
