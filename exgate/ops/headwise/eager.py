"""The block-diagonal product in plain PyTorch: a batched matrix product of larger blocks."""

import torch
from torch import Tensor

LARGE = 16  # Blocks of 4 are too small for a matrix product: four in a diagonal of zeros take half the time


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, weight: Tensor) -> Tensor:
    blocks, size, _ = weight.shape
    together = next(n for n in (4, 2, 1) if (size * n <= LARGE and blocks % n == 0) or n == 1)
    if together > 1:
        each = torch.eye(together, device=weight.device, dtype=weight.dtype)
        weight = torch.einsum("mcoi,cd->mcodi", weight.unflatten(0, (-1, together)), each)
        weight = weight.flatten(3, 4).flatten(1, 2)
    return torch.einsum("...ni,noi->...no", x.unflatten(-1, weight.shape[::2]), weight).flatten(-2)
