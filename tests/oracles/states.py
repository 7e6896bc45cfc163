"""The states of the published packages as ours, and back: how a sequence begun in one is continued in the other.

A published state is a dict of tensors with names "{block}.{part}". Ours is a tuple with an entry for each block: the
tuple of its residual branches' states, the cell's first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from exgate.ops import ConvState, MLSTMState, SLSTMState
from exgate.ops.state import State


def from_xlstm(theirs: dict[str, Tensor], pattern: str, heads: int) -> State:
    """2024 blocks: C (B,H,K,V), n (B,H,K,1), m (B,H,1,1) with k, not q, scaled by K**-0.5; sLSTM (4,B,d) = h, c, n, m;
    the convolution's window has one input more than ours, the oldest, which is never used again."""
    states = []
    for block, letter in enumerate(pattern):
        window = theirs.get(f"{block}.conv")
        conv = None if window is None else ConvState(window[:, 1:])
        if letter == "m":
            c, n, m = (theirs[f"{block}.{part}"] for part in "cnm")
            scale = c.shape[-2] ** 0.5
            states.append(((conv, MLSTMState(c * scale, n[..., 0] * scale, m[..., 0, 0])),))
            continue
        h, c, n, m = theirs[f"{block}.slstm"].unflatten(-1, (heads, -1))
        m = torch.where(n == 0, -torch.inf, m)  # all zero: empty
        cell = SLSTMState(h, c, n, m)
        states.append((cell if conv is None else (conv, cell), ()))
    return tuple(states)


def to_xlstm(ours: State, pattern: str) -> dict[str, Tensor]:
    theirs = {}
    for block, letter in enumerate(pattern):
        state = ours[block][0]
        conv, cell = (None, state) if isinstance(state, SLSTMState) else state
        if conv is not None:
            theirs[f"{block}.conv"] = torch.cat([torch.zeros_like(conv.x[:, :1]), conv.x], 1)
        if letter == "s":
            m = torch.where(cell.n == 0, 0, cell.m)
            theirs[f"{block}.slstm"] = torch.stack([part.flatten(1) for part in (cell.h, cell.c, cell.n, m)])
            continue
        scale = cell.c.shape[-2] ** -0.5
        theirs[f"{block}.c"], theirs[f"{block}.n"] = cell.c * scale, cell.n[..., None] * scale
        theirs[f"{block}.m"] = cell.m[..., None, None]
    return theirs


def from_7b(theirs: dict[str, Tensor], blocks: int) -> State:
    """xLSTMLarge and transformers: C (B,H,K,V), n (B,H,K), m (B,H,1), scaled as ours."""
    states = []
    for block in range(blocks):
        c, n, m = (theirs[f"{block}.{part}"] for part in "cnm")
        states.append((MLSTMState(c, n, m[..., 0]), ()))
    return tuple(states)


def to_7b(ours: State) -> dict[str, Tensor]:
    theirs = {}
    for block, (cell, _) in enumerate(ours):
        theirs[f"{block}.c"], theirs[f"{block}.n"], theirs[f"{block}.m"] = cell.c, cell.n, cell.m[..., None]
    return theirs


def empty_whole(model: torch.nn.Module, batch: int) -> State:
    """The empty state of the package's whole-sequence form: m = -inf in each mLSTM, all else as in ours."""
    states = []
    for block in model.stack.layers:
        layer = block.layers[0].layer
        if not hasattr(layer, "skip"):
            states.append(None)
            continue
        weight, heads = layer.skip, layer.heads
        size = len(weight) // heads
        cell = MLSTMState(
            weight.new_zeros(batch, heads, size, size),
            weight.new_zeros(batch, heads, size),
            weight.new_full((batch, heads), -torch.inf),
        )
        states.append(((None, cell),))
    return tuple(states)
