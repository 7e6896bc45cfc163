"""The loop of the vanilla network: what the laws of contract.py do not say of it."""

import pytest
import torch

from exgate.ops import rnn


def test_heads_do_not_mix():
    x, r = torch.randn(2, 6, 3, 4, dtype=torch.float64), torch.randn(3, 4, 4, dtype=torch.float64)
    h, state = rnn(x, r)
    for head in range(3):
        alone, last = rnn(x[:, :, head : head + 1], r[head : head + 1])
        torch.testing.assert_close(h[:, :, head], alone[:, :, 0])
        torch.testing.assert_close(state.h[:, head], last.h[:, 0])


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"rnn: r has H=2 in shape \(2, 4, 4\) = \(H, K, K\), but x has H=3"):
        rnn(torch.zeros(1, 2, 3, 4), torch.zeros(2, 4, 4))
