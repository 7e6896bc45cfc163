"""Feeding prompts of any lengths to a model: in pieces, in batches, and without padding."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from exgate.ops.state import State, join, map_state


def split(state: State, rows: int) -> list[State]:
    """A state of `rows` sequences as so many states of one (views)."""
    return [map_state(lambda tensor, row=row: tensor[row : row + 1], state) for row in range(rows)]


def pieces(lengths: Sequence[int], chunk: int) -> Iterator[tuple[int, list[int]]]:
    """(T, rows that are fed T tokens next): whole chunks first, then what is left of each length in powers of two.

    A row's pieces depend on its own length alone, so its result does not depend on its neighbours; and rows of all
    lengths need no more than max(lengths) / chunk + log2(chunk) batches.
    """
    for turn in range(max(lengths) // chunk):
        yield chunk, [row for row, length in enumerate(lengths) if length // chunk > turn]
    size = 1 << chunk.bit_length()
    while size:
        rows = [row for row, length in enumerate(lengths) if length % chunk & size]
        if rows:
            yield size, rows
        size //= 2


def prefill(
    model: Any, prompts: Sequence[Tensor], states: Sequence[State], *, chunk: int = 512
) -> tuple[Tensor, list[State]]:
    """Feed each prompt (T,) after its state (None is empty); the logits (B, V) that follow it, and the states after it.

    Memory does not grow with the length of a prompt: at most `chunk` tokens of a row are fed at a time, and only the
    last token's logits are computed. The result is that of one forward over the whole prompt, up to rounding.
    """
    states = list(states)
    fed = [0] * len(prompts)
    for size, rows in pieces([len(prompt) - 1 for prompt in prompts], chunk):
        _feed(model.hidden, prompts, states, fed, rows, size)
    logits = _feed(model, prompts, states, fed, list(range(len(prompts))), 1)
    return torch.stack([logits[row] for row in range(len(prompts))]), states


def _feed(
    forward: Callable[..., tuple[Tensor, State]],
    prompts: Sequence[Tensor],
    states: list[State],
    fed: list[int],
    rows: list[int],
    size: int,
) -> dict[int, Tensor]:
    """Feed `size` tokens to each of `rows`; changes `states` and `fed`, gives each row's output at its last token."""
    outputs: dict[int, Tensor] = {}
    # Rows that have nothing yet go apart: an empty state has no tensors to stack with the others'.
    begun = [row for row in rows if states[row] is not None]
    fresh = [row for row in rows if states[row] is None]
    for group in filter(None, (fresh, begun)):
        tokens = torch.stack([prompts[row][fed[row] : fed[row] + size] for row in group])
        output, state = forward(tokens, join([states[row] for row in group]) if group is begun else None)
        for row, last, part in zip(group, output[:, -1], split(state, len(group)), strict=True):
            outputs[row], states[row], fed[row] = last, part, fed[row] + size
    return outputs
