"""The selective scan, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None, state, reset, chunk_size=None):
    kind, state_kind = u.dtype, state_type(u, delta, b, c)
    u, delta, a, b, c = (x.to(state_kind) for x in (u, delta, a, b, c))
    (h,) = state
    outputs = []
    for t in range(u.shape[1]):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0.0)
        decay = torch.exp(delta[:, t, :, None] * a)
        h = decay * h + (delta[:, t] * u[:, t])[..., None] * b[:, t, None]
        y = (h * c[:, t, None]).sum(-1)
        outputs.append(y if skip is None else y + skip.to(state_kind) * u[:, t])
    return torch.stack(outputs, 1).to(kind), type(state)(h)
