"""The norm of each head in plain PyTorch: the definition, and what runs wherever no kernel does."""

import torch
from torch import Tensor
from torch.nn import functional as F


def refuses(*args) -> str | None:
    return None


def run(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float, rms: bool, offset: bool) -> Tensor:
    kind = torch.promote_types(x.dtype, torch.float32)
    norm, factor = F.rms_norm if rms else F.layer_norm, weight.to(kind)
    factor = 1 + factor if offset else factor
    if weight.dim() == 1:
        y = norm(x.to(kind), weight.shape, factor, eps=eps)
    else:
        y = norm(x.to(kind), weight.shape[1:], eps=eps).flatten(-2) * factor.flatten()
    y = y.to(x.dtype)
    return y if gate is None else torch.sigmoid(gate) * y
