"""Attention, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor

from exgate.ops.attention.rope import rotate
from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(q, k, v, state, rope_theta: float, window: int | None, reset: Tensor | None):
    kind, state_kind = v.dtype, state_type(q, k, v)
    q, k, v = q.to(state_kind), k.to(state_kind), v.to(state_kind)
    each = q.shape[2] // k.shape[2]  # heads that share a key
    keys, values, position = state
    outputs = []
    for t in range(q.shape[1]):
        if reset is not None:
            begins = reset[:, t]
            position = position.masked_fill(begins, 0.0)
            keys, values = (x.masked_fill(begins[:, None, None, None], 0.0) for x in (keys, values))
        query, key = (rotate(x[:, t : t + 1], position[:, None], rope_theta) for x in (q, k))
        keys, values, position = torch.cat([keys, key], 1), torch.cat([values, v[:, t : t + 1]], 1), position + 1
        keys, values = newest(keys, window), newest(values, window)
        counts = torch.arange(keys.shape[1], 0, -1, device=q.device) <= position[:, None]  # (B, S)
        scores = torch.einsum("bhk,bshk->bhs", query[:, 0], keys.repeat_interleave(each, 2)) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~counts[:, None], -torch.inf).softmax(-1)
        outputs.append(torch.einsum("bhs,bshv->bhv", weights, values.repeat_interleave(each, 2)))
    kept = None if window is None else window - 1
    return torch.stack(outputs, 1).to(kind), type(state)(newest(keys, kept), newest(values, kept), position)


def newest(x: Tensor, kept: int | None) -> Tensor:
    """The last `kept` entries of x (B, S, ...), in memory of their own; None, or more than there are, keeps all."""
    return x if kept is None or kept >= x.shape[1] else x[:, x.shape[1] - kept :].clone()
