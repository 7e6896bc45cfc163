"""The vanilla recurrent network, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, r: Tensor, state, reset: Tensor | None):
    kind, state_kind = x.dtype, state_type(x)
    x, r = x.to(state_kind), r.to(state_kind)
    h = state.h
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0.0)
        h = torch.tanh(x[:, t] + torch.einsum("hab,nhb->nha", r, h))
        outputs.append(h)
    return torch.stack(outputs, 1).to(kind), type(state)(h)
