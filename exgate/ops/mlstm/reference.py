"""mLSTM, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def start(state, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, n and m of `state`; zeros where there is none."""
    if state is not None:
        return tuple(state)
    (b, _, h, k), kind = q.shape, state_type(q, v)
    c, n, m = (q.new_zeros(shape, dtype=kind) for shape in ((b, h, k, v.shape[-1]), (b, h, k), (b, h)))
    return c, n, m


def step(q: Tensor, k: Tensor, v: Tensor, log_i: Tensor, log_f: Tensor, c, n, m, exponential, normalize, eps):
    """One step: q, k (B, H, K) with q scaled, v (B, H, V), the logarithms of the gates (B, H)."""
    before = m
    m = torch.maximum(log_f + m, log_i).detach() if exponential else m  # a gauge: no derivative flows through it
    f, i = torch.exp(log_f + before - m), torch.exp(log_i - m)
    ik = i[..., None] * k
    c = torch.addcmul(f[..., None, None] * c, ik[..., None], v[..., None, :])
    n = torch.addcmul(ik, f[..., None], n)
    h = (q[..., None, :] @ c).squeeze(-2)
    scale = 1 / (torch.maximum((n * q).sum(-1).abs(), torch.exp(-m)) + eps) if normalize else torch.exp(m)
    return h * scale[..., None], c, n, m


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size=None):
    kind, state_kind = v.dtype, state_type(q, k, v)
    c, n, m = start(state, q, v)
    q, k, v = q.to(state_kind) * q.shape[-1] ** -0.5, k.to(state_kind), v.to(state_kind)
    log_f = logsigmoid(f.to(state_kind))
    log_i = i.to(state_kind) if input_gate == "exp" else logsigmoid(i.to(state_kind))
    outputs = []
    for t in range(q.shape[1]):
        if reset is not None:
            begins = reset[:, t, None]
            c = c.masked_fill(begins[..., None, None], 0.0)
            n, m = n.masked_fill(begins[..., None], 0.0), m.masked_fill(begins, 0.0)
        h, c, n, m = step(
            q[:, t], k[:, t], v[:, t], log_i[:, t], log_f[:, t], c, n, m, input_gate == "exp", normalize, eps
        )
        outputs.append(h)
    return torch.stack(outputs, 1).to(kind), (c, n, m)
