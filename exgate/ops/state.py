"""What can be done with any state: states are tensors in NamedTuples, nested in tuples, batch in dimension 0.

A NamedTuple whose tensors grow with every step names them in `GROWS`. They have time in dimension 1, newest last, and
zeros in front of them mean nothing: so states of different length can be laid one under the other.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

State = Any  # a Tensor, None, or a (Named)tuple of States; Python's type system cannot say it more tightly


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same nesting with `function` applied to every tensor. Empty tuples and None pass through."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    parts = [map_state(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def savable(*kinds: type) -> None:
    """Let `torch.export` save and load programs that take or give these NamedTuples: it wants names, and trust."""
    for kind in kinds:
        _pytree._register_namedtuple(kind, serialized_type_name=f"{kind.__module__}.{kind.__name__}")
    torch.serialization.add_safe_globals(list(kinds))


def detach(state: State) -> State:
    """The state without its history: what truncated backpropagation carries from window to window."""
    return map_state(Tensor.detach, state)


def select(state: State, index: Tensor) -> State:
    """The batch rows `index` (a LongTensor or a mask) of a state: fork, reorder or drop sequences."""
    return map_state(lambda tensor: tensor[index], state)


def join(states: Sequence[State]) -> State:
    """States of the same model stacked along the batch."""
    parts = [flatten(state) for state in states]
    return unflatten({name: _stacked([part[name] for part in parts]) for name in parts[0]}, like=states[0])


def _stacked(tensors: list[Tensor]) -> Tensor:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    fronts = [t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:]) for t in tensors]
    return torch.cat([torch.cat(pair, 1) for pair in zip(fronts, tensors, strict=True)])


def _named(state: State, prefix: str = "", grows: bool = False) -> Iterator[tuple[str, Tensor, bool]]:
    """(name, tensor, whether it grows) of every tensor."""
    if state is None:
        return
    if isinstance(state, Tensor):
        yield prefix, state, grows
        return
    names, growing = getattr(state, "_fields", range(len(state))), getattr(state, "GROWS", ())
    for name, part in zip(names, state, strict=True):
        yield from _named(part, f"{prefix}.{name}" if prefix else str(name), name in growing)


def flatten(state: State) -> dict[str, Tensor]:
    """The tensors of a state by name ("0.1.c"): what a file of tensors can hold."""
    return {name: tensor for name, tensor, _ in _named(state)}


def unflatten(tensors: dict[str, Tensor], like: State) -> State:
    """The way back from `flatten`: tensors nested as in `like`.

    Raises:
        ValueError: names or shapes (but for the batch, and the length of what grows) are not those of `like`.
    """
    wanted = flatten(like)
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())
        raise ValueError(f"unflatten: the state does not fit this model: {', '.join(odd[:4])} only on one side.")
    for name, tensor, grows in _named(like):
        fixed = slice(1 + grows, None)
        if tensor.dim() != tensors[name].dim() or tensor.shape[fixed] != tensors[name].shape[fixed]:
            raise ValueError(
                f"unflatten: the state's {name} has shape {tuple(tensors[name].shape)}, "
                f"but this model's has {tuple(tensor.shape)} (the first is the batch). Use the model that wrote it."
            )
    names = iter(wanted)
    return map_state(lambda _: tensors[next(names)], like)
