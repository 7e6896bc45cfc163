"""WKV, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state, reset: Tensor | None):
    kind, state_kind = v.dtype, state_type(k, v)
    k, v, w, u = (x.to(state_kind) for x in (k, v, w, u))
    c, n, m = state
    m = m.detach()
    outputs = []
    for t, (k_t, v_t) in enumerate(zip(k.unbind(1), v.unbind(1), strict=True)):
        if reset is not None:
            begins = reset[:, t, None]
            c, n, m = c.masked_fill(begins, 0.0), n.masked_fill(begins, 0.0), m.masked_fill(begins, float("-inf"))
        top = torch.maximum(m, u + k_t).detach()
        past, now = (m - top).exp(), (u + k_t - top).exp()
        outputs.append((past * c + now * v_t) / (past * n + now))
        top = torch.maximum(m - w, k_t).detach()
        past, now = (m - w - top).exp(), (k_t - top).exp()
        c, n, m = past * c + now * v_t, past * n + now, top
    return torch.stack(outputs, 1).to(kind), type(state)(c, n, m)
