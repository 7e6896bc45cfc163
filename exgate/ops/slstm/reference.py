"""sLSTM, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def step(x: Tensor, r: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor, forget_gate: str):
    """One step: x (B, 4, H, K) raw pre-activations, the state (B, H, K) each."""
    raw_i, raw_f, raw_z, raw_o = (x + torch.einsum("ghab,nhb->ngha", r, h)).unbind(1)
    log_f = (raw_f if forget_gate == "exp" else logsigmoid(raw_f)) + m
    m = torch.maximum(raw_i, log_f).detach()  # a gauge: no derivative flows through it
    i, f = torch.exp(raw_i - m), torch.exp(log_f - m)
    c = f * c + i * raw_z.tanh()
    n = f * n + i
    return raw_o.sigmoid() * c / n, c, n, m


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    kind, state_kind = x.dtype, state_type(x)
    x, r = x.to(state_kind), r.to(state_kind)
    h, c, n, m = state
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            begins = reset[:, t, None, None]
            h, c, n = (s.masked_fill(begins, 0.0) for s in (h, c, n))
            m = m.masked_fill(begins, -torch.inf)
        h, c, n, m = step(x[:, t], r, h, c, n, m, forget_gate)
        outputs.append(h)
    return torch.stack(outputs, 1).to(kind), type(state)(h, c, n, m)
