"""The product in plain PyTorch: weights are widened a block of rows at a time, so that no whole copy is ever made."""

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1 << 22  # numbers


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    rows = max(1, BLOCK // weight.shape[1])
    y = torch.cat([F.linear(x, block.to(x.dtype)) for block in weight.split(rows)], -1)
    if scale is not None:
        y = y * scale.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype)
