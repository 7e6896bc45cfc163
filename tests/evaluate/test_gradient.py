"""The vanishing gradient: norms against autograd by hand, and what the initial weights of each layer do to them."""

import math

import pytest
import torch

from exgate.evaluate import gradient
from exgate.ops.state import flatten, unflatten


def test_norms_of_an_rnn_by_hand():
    layer = gradient.layers(dim=3, heads=1)["RNN"]
    measured = gradient.norms(layer, 3, steps=5, batch=2, seed=4)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)
    h, hs = torch.zeros(2, 3, dtype=torch.float64), []
    w, b, r = layer.input.weight, layer.input.bias, layer.recurrent[0]
    for t in range(6):
        h = torch.tanh(x[:, t] @ w.T + b + h @ r.T)
        hs.append(h)
    loss = (h * torch.randn(2, 1, 3, dtype=torch.float64, generator=generator)[:, 0]).sum()
    by_hand = [part.norm().item() for part in torch.autograd.grad(loss, hs[:-1])][::-1]
    torch.testing.assert_close(torch.tensor(measured), torch.tensor([value / by_hand[0] for value in by_hand]))


def test_what_vanishes():
    curves = gradient.curves(steps=100, dim=32)
    fall = {name: 1 / values[-1] for name, values in curves.items()}
    assert all(values[0] == 1 and len(values) == 100 for values in curves.values())
    assert fall["RNN"] > 1e4
    assert fall["LSTM"] > 1e10
    assert 1e4 < fall["LSTM, forget bias 1"] < fall["LSTM"]
    assert fall["LSTM, forget bias 3 to 6"] < 1e2
    assert fall["mLSTM"] < 1e2
    assert 0.5 < fall["attention"] < 2, "no step is nearer than another"


@pytest.mark.parametrize("name", ["mLSTM", "sLSTM"])
def test_the_gauge_of_the_exponential_gate(name):
    """(c, n, m) and (c e^d, n e^d, m - d) are one state: what reaches it does not depend on d."""
    torch.manual_seed(0)
    layer = gradient.layers(dim=8, heads=2)[name]
    layer.eps = 0.0
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        _, state = layer(x[:, :4])

    def reached(d: float) -> list[torch.Tensor]:
        shift = {"c": math.exp(d), "n": math.exp(d), "m": -d}
        parts = {key: value.clone() for key, value in flatten(state).items()}
        for key, value in parts.items():
            leaf = key.rpartition(".")[2]
            value.add_(shift["m"]) if leaf == "m" else value.mul_(shift.get(leaf, 1.0))
            value.requires_grad_(leaf != "m")
        shifted = unflatten(parts, like=state)
        y, _ = layer(x[:, 4:], shifted)
        carried = gradient._carried(shifted)
        found = torch.autograd.grad(y.square().sum(), [tensor for tensor, _ in carried])
        return [part * scale for part, (_, scale) in zip(found, carried, strict=True)]

    plain, moved = reached(0.0), reached(1.5)
    assert max(part.abs().max() for part in plain) > 1e-3
    for a, b in zip(plain, moved, strict=True):
        torch.testing.assert_close(a, b)
