"""The vanishing gradient: norms against autograd by hand, and what the initial weights of each layer do to them."""

import torch

from exgate.evaluate import gradient


def test_norms_of_an_rnn_by_hand():
    layer = gradient.Elman(3).double()
    measured = gradient.norms(layer, 3, steps=5, batch=2, seed=4)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)
    h, hs, (w, r, b, c) = torch.zeros(2, 3, dtype=torch.float64), [], layer.rnn.parameters()
    for t in range(6):
        h = torch.tanh(x[:, t] @ w.T + b + h @ r.T + c)
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
    assert fall["LSTM, forget bias 3 to 6"] < 1e2
    assert fall["mLSTM"] < 1e2


def test_the_gauge_of_the_exponential_gate():
    """c exp(m) is what counts: with i and f shifted alike, c and m change and the norms do not."""
    layer = gradient.layers(dim=8, heads=2)["mLSTM"]
    torch.manual_seed(0)
    before = gradient.norms(layer, 8, steps=6)
    with torch.no_grad():
        layer.igate.bias += 3.0
        layer.eps = 0.0
    shifted = gradient.norms(layer, 8, steps=6)
    assert all(0 < value < 10 for value in before + shifted)
