"""Rotary positions: lengths stay, products depend on distances, and the pairs are (2i, 2i+1)."""

import math

import torch

from exgate.ops.attention.rope import rotate


def test_the_first_pair_turns_by_the_position():
    x = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 4)
    y = rotate(x, torch.tensor([[3]]), 100.0)[0, 0, 0]
    wanted = [math.cos(3), math.sin(3), -math.sin(0.3), math.cos(0.3)]
    torch.testing.assert_close(y, torch.tensor(wanted, dtype=torch.float64))


def test_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 3, 8, dtype=torch.float64)
    near = (rotate(q, torch.tensor([[9]]), 1e4) * rotate(k, torch.tensor([[2]]), 1e4)).sum(-1)
    far = (rotate(q, torch.tensor([[100_009]]), 1e4) * rotate(k, torch.tensor([[100_002]]), 1e4)).sum(-1)
    torch.testing.assert_close(near, far, rtol=1e-9, atol=1e-9)


def test_no_digits_are_lost_far_from_the_beginning():
    x = torch.randn(1, 1, 2, 64)
    exact = rotate(x.double(), torch.tensor([[1_000_003]]), 1e4)
    torch.testing.assert_close(rotate(x, torch.tensor([[1_000_003]]), 1e4).double(), exact, rtol=1e-6, atol=1e-6)
