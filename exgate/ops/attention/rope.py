"""Rotary positions: what makes a product of query and key depend on the distance between them."""

import torch
from torch import Tensor


def rotate(x: Tensor, position: Tensor, theta: float) -> Tensor:
    """x (B, T, H, K) with each pair (2i, 2i+1) turned by the angle position (B, T) times theta^(-2i/K); theta 0: x."""
    if not theta:
        return x
    size = x.shape[-1]
    # In float64: the product of a position and a frequency loses as many digits as the position has.
    pair = torch.arange(0, size, 2, dtype=torch.float64, device=x.device)
    angle = position[..., None].double() * theta ** (-pair / size)
    cos, sin = (part.to(x.dtype)[:, :, None] for part in (angle.cos(), angle.sin()))
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
