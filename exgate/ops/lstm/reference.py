"""LSTM, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def step(x: Tensor, r: Tensor, h: Tensor, c: Tensor, peephole: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step: x (B, 4, H, K) raw pre-activations, h and c (B, H, K)."""
    raw_i, raw_f, raw_z, raw_o = (x + torch.einsum("ghab,nhb->ngha", r, h)).unbind(1)
    if peephole is not None:
        raw_i = raw_i + peephole[0] * c
        raw_f = raw_f + peephole[1] * c
    c = raw_f.sigmoid() * c + raw_i.sigmoid() * raw_z.tanh()
    if peephole is not None:
        raw_o = raw_o + peephole[2] * c
    return raw_o.sigmoid() * c.tanh(), c


def run(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None):
    kind, state_kind = x.dtype, state_type(x)
    x, r = x.to(state_kind), r.to(state_kind)
    peephole = None if peephole is None else peephole.to(state_kind)
    h, c = state
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            begins = reset[:, t, None, None]
            h, c = h.masked_fill(begins, 0.0), c.masked_fill(begins, 0.0)
        h, c = step(x[:, t], r, h, c, peephole)
        outputs.append(h)
    return torch.stack(outputs, 1).to(kind), type(state)(h, c)
