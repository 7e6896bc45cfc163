"""xLSTMTime against a derivation of its own from the published code's steps, in float64; who sees whom; learning."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from exgate.models import io, xlstm_time

SMALL = xlstm_time.Config(steps=30, horizon=9, channels=3, dim=16, blocks=2, heads=2, kernel=5)
CONFIGS = {
    "as published": SMALL,
    "over time": replace(SMALL, axis="time"),
    "mLSTM": replace(SMALL, pattern="m"),
    "mLSTM over time, no convolution": replace(SMALL, pattern="sm", axis="time", conv_kernel=0),
    "batch norm, no scale": replace(SMALL, batch_norm=True, normalize=False),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def shaken(config):
    """A float64 model with no weight where it starts."""
    model = xlstm_time.build(config, dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normed(x, factor=1.0):
    """Layer norm over the last dimension."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * factor


def convolved(x, weights, prefix):
    """The causal convolution of x (T, D)."""
    weight = weights[prefix + "conv.weight"]
    padded = np.concatenate([np.zeros((weight.shape[1] - 1, x.shape[1])), x])
    y = np.stack([(padded[t : t + weight.shape[1]].T * weight).sum(1) for t in range(len(x))])
    return y + weights[prefix + "conv.bias"]


def silu(x):
    return x * sigmoid(x)


def headwise(x, weight):
    parts = np.split(x, len(weight), -1)
    return np.concatenate([part @ matrix.T for part, matrix in zip(parts, weight, strict=True)], -1)


def slstm(x, weights, prefix, heads):
    """x (T, D) -> (T, D): the cell of the xLSTM paper, step by step."""
    u = silu(convolved(x, weights, prefix)) if prefix + "conv.weight" in weights else x
    raw = [headwise(y, weights[f"{prefix}{gate}gate.weight"]) for gate, y in zip("ifzo", (u, u, x, x), strict=True)]
    recurrent, bias = weights[prefix + "recurrent"], weights[prefix + "bias"]
    size = x.shape[1] // heads
    h = c = n = np.zeros((heads, size))
    m, outputs = np.full((heads, size), -np.inf), []
    for t in range(len(x)):
        i, f, z, o = (
            gate[t].reshape(heads, size) + bias[g] + np.einsum("hab,hb->ha", recurrent[g], h)
            for g, gate in enumerate(raw)
        )
        log_f = -np.log1p(np.exp(-f))
        new = np.maximum(log_f + m, i)
        kept, taken, m = np.exp(log_f + m - new), np.exp(i - new), new
        c, n = kept * c + taken * np.tanh(z), kept * n + taken
        h = sigmoid(o) * c / n
        outputs.append(normed(h).reshape(-1))
    return np.stack(outputs) * (1 + weights[prefix + "norm.weight"])


def mlstm(x, weights, prefix, heads):
    """x (T, D) -> (T, D): the layer of the xLSTM paper with its matrix memory, step by step."""
    a, z = np.split(x @ weights[prefix + "up.weight"].T, 2, -1)
    u = silu(convolved(a, weights, prefix) if prefix + "conv.weight" in weights else a)
    q, k, v = (headwise(y, weights[f"{prefix}{name}.weight"]) for name, y in zip("qkv", (u, u, a), strict=True))
    gates = np.concatenate([q, k, v], -1)
    i, f = (gates @ weights[f"{prefix}{g}gate.weight"].T + weights[f"{prefix}{g}gate.bias"] for g in "if")
    size = a.shape[1] // heads
    q, k, v = (y.reshape(-1, heads, size) for y in (q, k, v))
    outputs = []
    for head in range(heads):
        c, n, m = np.zeros((size, size)), np.zeros(size), 0.0
        for t in range(len(x)):
            log_f = -np.log1p(np.exp(-f[t, head]))
            new = max(log_f + m, i[t, head])
            kept, taken, m = np.exp(log_f + m - new), np.exp(i[t, head] - new), new
            c = kept * c + taken * np.outer(k[t, head], v[t, head])
            n = kept * n + taken * k[t, head]
            query = q[t, head] / math.sqrt(size)
            outputs.append(normed(query @ c / (max(abs(query @ n), np.exp(-m)) + 1e-6)))
    h = np.stack(outputs).reshape(heads, len(x), size).swapaxes(0, 1).reshape(len(x), -1)
    h = h * (1 + weights[prefix + "norm.weight"]) + weights[prefix + "skip"] * u
    return (h * silu(z)) @ weights[prefix + "down.weight"].T


def fed_forward(x, weights, prefix):
    gate, factor = np.split(x @ weights[prefix + "up.weight"].T, 2, -1)
    gelu = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
    return (gelu * factor) @ weights[prefix + "down.weight"].T


def derived(config, weights, x):
    """One window (L, C) -> (H, C), from the steps that the published code has."""
    mean, deviation = x.mean(0), np.sqrt(x.var(0) + 1e-5)
    if config.normalize:
        x = (x - mean) / deviation
    half = (config.kernel - 1) // 2
    padded = np.concatenate([x[:1]] * half + [x] + [x[-1:]] * half)
    slow = np.stack([padded[t : t + config.kernel].mean(0) for t in range(len(x))])
    y = weights["linear.seasonal.weight"] @ (x - slow) + weights["linear.seasonal.bias"][:, None]
    y = y + weights["linear.trend.weight"] @ slow + weights["linear.trend.bias"][:, None]
    y = y.T if config.axis == "variates" else y
    y = y @ weights["up.weight"].T + weights["up.bias"]
    if config.batch_norm:  # in evaluation, with the statistics that it starts with: mean 0, variance 1
        y = y / math.sqrt(1 + 1e-5) * weights["batch_norm.weight"][:, None] + weights["batch_norm.bias"][:, None]
    for block in range(config.blocks):
        prefix = f"stack.layers.{block}.layers."
        kind = config.pattern[block % len(config.pattern)]
        cell = slstm if kind == "s" else mlstm
        before = normed(y, 1 + weights[prefix + "0.norm.weight"])
        y = y + cell(before, weights, prefix + "0.layer.", config.heads)
        if kind == "s":
            before = normed(y, 1 + weights[prefix + "1.norm.weight"])
            y = y + fed_forward(before, weights, prefix + "1.layer.")
    y = normed(y, 1 + weights["norm.weight"]) @ weights["down.weight"].T + weights["down.bias"]
    y = y.T if config.axis == "variates" else y
    return y * deviation + mean if config.normalize else y


@every_config
def test_it_is_what_is_derived_step_by_step(config):
    model = shaken(config)
    x = 5 + 3 * torch.randn(4, config.steps, config.channels, dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    expected = np.stack([derived(config, weights, window.numpy()) for window in x])
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_defaults_are_the_published_ones():
    config = xlstm_time.Config(steps=512, horizon=96, channels=7)
    assert (config.axis, config.dim, config.blocks, config.heads, config.kernel) == ("variates", 256, 3, 4, 25)
    model = io.build(config)
    letters = {type(branch.layer).__name__ for block in model.stack.layers for branch in block.layers}
    assert letters == {"SLSTMLayer", "FFN"}, "three sLSTM blocks, each with a feed-forward part"
    x = torch.randn(2, 512, 7)
    torch.testing.assert_close(model.linear(x), x.mean(1, keepdim=True).expand(-1, 96, -1), rtol=0, atol=0.1)


@pytest.mark.parametrize(("axis", "mixed"), [("variates", False), ("time", True)])
def test_who_sees_whom(axis, mixed):
    """Over variates a series is refined by those before it; over time, each by all."""
    model = shaken(replace(SMALL, axis=axis))
    x = torch.randn(1, 30, 3, dtype=torch.float64)
    other = x.clone()
    other[:, :, 2] = torch.randn(1, 30, dtype=torch.float64)
    changed = (model(x) - model(other)).abs().amax((0, 1)) > 1e-9
    assert changed.tolist() == [mixed, mixed, True]


@every_config
def test_it_learns_and_is_saved(config, tmp_path):
    model = xlstm_time.build(config)
    time = torch.arange(39)[None, :, None] + torch.randint(100, (64, 1, 1))
    series = torch.sin(2 * math.pi * time / torch.tensor([6.0, 9.0, 15.0])) + torch.tensor([0.0, 5.0, -1.0])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = (model(series[:, :30]) - series[:, 30:]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0], losses
    io.save(model.eval(), tmp_path)
    again = io.load(tmp_path).eval()
    torch.testing.assert_close(again(series[:, :30]), model(series[:, :30]), rtol=0, atol=0)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="axis is 'channels'"):
        replace(SMALL, axis="channels")
    with pytest.raises(ValueError, match="letters m, s"):
        replace(SMALL, pattern="a")
    with pytest.raises(ValueError, match=r"windows have shape \(2, 30, 4\)"):
        xlstm_time.build(SMALL)(torch.zeros(2, 30, 4))
