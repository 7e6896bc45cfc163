"""Attention by PyTorch's own `scaled_dot_product_attention`, which never holds the (T, S) weights where it can."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from exgate.ops.attention.reference import newest
from exgate.ops.attention.rope import rotate
from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def run(q, k, v, state, rope_theta: float, window: int | None, reset: Tensor | None):
    kind, state_kind = q.dtype, state_type(q, k, v)
    steps, cached = q.shape[1], state.k.shape[1]
    position = _positions(state.position.long(), reset, steps)
    q, k = (rotate(x.to(state_kind), position, rope_theta) for x in (q, k))
    keys, values = torch.cat([state.k, k], 1), torch.cat([state.v, v.to(state_kind)], 1)
    # An exported program may be given more steps than its example: it has the mask of its window at any length.
    outside = window is not None and (torch.compiler.is_exporting() or window < steps)
    mask = _sees(position, cached, window) if cached or reset is not None or outside else None
    operands = (x.to(kind).transpose(1, 2) for x in (q, keys, values))
    shared = {"enable_gqa": True} if q.shape[2] != keys.shape[2] else {}  # decided here: sizes may be symbols
    y = scaled_dot_product_attention(*operands, attn_mask=mask, is_causal=mask is None, **shared).transpose(1, 2)
    after = position[:, -1] + 1
    if reset is not None:  # nothing of a document that is over is handed on
        over = torch.arange(cached + steps, 0, -1, device=q.device) > after[:, None]
        keys, values = (x.masked_fill(over[..., None, None], 0.0) for x in (keys, values))
    kept = None if window is None else window - 1
    return y, type(state)(newest(keys, kept), newest(values, kept), after.to(state_kind))


def _positions(start: Tensor, reset: Tensor | None, steps: int) -> Tensor:
    """The position of each step in its document, (B, T): counted from `start` (B,) until the first reset."""
    time = torch.arange(steps, device=start.device)
    going_on = start[:, None] + time
    if reset is None:
        return going_on
    begun = torch.where(reset, time, -1).cummax(1).values  # the step at which the document began; -1: before
    return torch.where(begun < 0, going_on, time - begun)


def _sees(position: Tensor, cached: int, window: int | None) -> Tensor:
    """(B, 1, T, cached + T): the keys of a step's own document, up to its own, and within the window."""
    own = cached + torch.arange(position.shape[1], device=position.device)
    key = torch.arange(cached + position.shape[1], device=position.device)
    first = own - position
    if window is not None:
        first = first.maximum(own - window + 1)
    return ((key >= first[..., None]) & (key <= own[:, None]))[:, None]
