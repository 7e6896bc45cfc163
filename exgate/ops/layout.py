"""The memory layout of the eager time loops: heads first, so that a step is one batched product per call.

Inside a loop, pre-activations are (H, S, B, 4 K) for a block of S steps: `x[:, s]` is a strided batch of matrices that
`baddbmm` reads and writes in place, and the products after the loop take the block as (H, S B, 4 K) without a copy.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_NUMBERS = 1 << 18  # a block of pre-activations: 1 MB in float32, so that recomputed gates stay in cache


def time_blocks(steps: int, numbers_per_step: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive blocks of steps, each of about BLOCK_NUMBERS numbers but at least 8 steps."""
    size = max(8, BLOCK_NUMBERS // numbers_per_step)
    return ((start, min(start + size, steps)) for start in range(0, steps, size))


def heads_first(x: Tensor, kind: torch.dtype) -> Tensor:
    """A copy of x (B, S, 4, H, K) as (H, S, B, 4, K), in the type `kind`."""
    view = x.permute(3, 1, 0, 2, 4)
    return torch.empty(view.shape, dtype=kind, device=x.device).copy_(view)


def batch_first(x: Tensor) -> Tensor:
    """(H, S, B, K) -> (B, S, H, K), a view."""
    return x.permute(2, 1, 0, 3)


def mixing(r: Tensor) -> Tensor:
    """r (4, H, out, in) -> (H, in, 4 out): h (H, B, K) times it gives the four gates side by side."""
    gates, heads, size, _ = r.shape
    return r.permute(1, 3, 0, 2).reshape(heads, size, gates * size)


def unmixing(weights: Tensor) -> Tensor:
    """The way back: (H, in, 4 out) -> (4, H, out, in)."""
    heads, size, _ = weights.shape
    return weights.reshape(heads, size, 4, size).permute(2, 0, 3, 1).contiguous()


def own(*states: Tensor) -> list[Tensor]:
    """Copies of states with batch and heads exchanged: a custom op changes no input, its outputs share no memory."""
    return [state.transpose(0, 1).clone(memory_format=torch.contiguous_format) for state in states]
