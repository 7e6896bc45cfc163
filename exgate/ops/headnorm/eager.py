"""The norm of each head in plain PyTorch: the definition, and what runs wherever no kernel does."""

import torch
from torch import Tensor
from torch.nn import functional as F


def refuses(*args) -> str | None:
    return None


def run(
    x: Tensor, weight: Tensor, gate: Tensor | None, u: Tensor | None, factor: Tensor | None,
    eps: float, rms: bool, offset: bool, silu: bool,
) -> Tensor:  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    norm, scale = F.rms_norm if rms else F.layer_norm, weight.to(wide)
    scale = 1 + scale if offset else scale
    if weight.dim() == 1:
        y = norm(x.to(wide), weight.shape, scale, eps=eps)
    else:
        y = norm(x.to(wide), weight.shape[1:], eps=eps).flatten(-2) * scale.flatten()
    y = y.to(x.dtype)
    if u is not None and factor is not None:
        y = y + factor * u
    if gate is not None:
        y = (F.silu if silu else torch.sigmoid)(gate) * y
    return y.to(kind(x, gate, u))


def kind(x: Tensor, *others: Tensor | None) -> torch.dtype:
    """The widest type of the tensors: that of y. The weights' has no part in it."""
    found = x.dtype
    for other in others:
        found = found if other is None else torch.promote_types(found, other.dtype)
    return found
