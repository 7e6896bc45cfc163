"""Length extrapolation: the loss of a language model far beyond the length that it was trained with.

Beck et al. 2024, arXiv:2405.04517, section 4.3, figure 7.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exgate.evaluate.perplexity import evaluating


def losses(
    model: Any,
    tokens: Sequence[int],
    *,
    length: int,
    end: int,
    batch: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Mean loss in nats at each position of rows of `length` tokens, each read from the empty state: (length,).

    Args:
        model: a language model: `model.loss(tokens, targets, reduction="none")`. It runs in eval mode.
        tokens: a text; cut into rows that do not overlap, and what is left over at its end is not read.
        end: the token before each row, from which its first token is predicted.
        batch: rows at a time; it changes the speed and nothing else.
        on_progress: called with the number of tokens scored since the last call.
    Raises:
        ValueError: there are fewer than `length` tokens.
    """
    rows = len(tokens) // length
    if rows == 0:
        raise ValueError(f"extrapolate: the text has {len(tokens)} tokens; a row has {length}. Give more text.")
    device = next(model.parameters()).device
    targets = torch.as_tensor(tokens[: rows * length], dtype=torch.long).view(rows, length)
    inputs = torch.cat([torch.full((rows, 1), end), targets[:, :-1]], 1)
    total = torch.zeros(length, dtype=torch.float64)
    with evaluating(model), torch.inference_mode():
        for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
            nats, _ = model.loss(x.to(device), y.to(device), reduction="none")
            total += nats.double().sum(0).cpu()
            if on_progress is not None:
                on_progress(y.numel())
    return total / rows


def perplexities(by_position: Tensor, window: int) -> dict[int, float]:
    """Perplexity of rows of 1, 2, 4, ... times `window` tokens, from the loss at each position of the longest."""
    found, times = {}, 1
    while times * window <= len(by_position):
        found[times] = math.exp(by_position[: times * window].mean().item())
        times *= 2
    return found
