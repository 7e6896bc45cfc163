"""Causal depthwise convolution, step by step: the definition that the other backends are tested against."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from exgate.ops.dispatch import state_type


def refuses(*args) -> str | None:
    return None


def activated(y: Tensor, activation: str | None) -> Tensor:
    """y, or SiLU of it: what every backend without a kernel for it does at the end."""
    return y if activation is None else silu(y)


def run(x: Tensor, weight: Tensor, bias: Tensor | None, state, reset: Tensor | None, activation: str | None):
    kind, state_kind = x.dtype, state_type(x)
    x, weight = x.to(state_kind), weight.to(state_kind)
    window = state.x
    outputs = []
    for t in range(x.shape[1]):
        if reset is not None:
            window = window.masked_fill(reset[:, t, None, None], 0.0)
        window = torch.cat([window, x[:, t : t + 1]], 1)
        y = torch.einsum("bkd,dk->bd", window, weight)
        outputs.append(y if bias is None else y + bias.to(state_kind))
        window = window[:, 1:]
    return activated(torch.stack(outputs, 1).to(kind), activation), type(state)(window)
