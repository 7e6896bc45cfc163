"""What can be done with any state: states are tensors in NamedTuples, nested in tuples, batch in dimension 0."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

State = Any  # a Tensor, None, or a (Named)tuple of States; Python's type system cannot say it more tightly


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same nesting with `function` applied to every tensor. Empty tuples and None pass through."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        return function(state)
    parts = [map_state(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def detach(state: State) -> State:
    """The state without its history: what truncated backpropagation carries from window to window."""
    return map_state(Tensor.detach, state)


def select(state: State, index: Tensor) -> State:
    """The batch rows `index` (a LongTensor or a mask) of a state: fork, reorder or drop sequences."""
    return map_state(lambda tensor: tensor[index], state)


def _named(state: State, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if state is None:
        return
    if isinstance(state, Tensor):
        yield prefix, state
        return
    names = getattr(state, "_fields", range(len(state)))
    for name, part in zip(names, state, strict=True):
        yield from _named(part, f"{prefix}.{name}" if prefix else str(name))


def flatten(state: State) -> dict[str, Tensor]:
    """The tensors of a state by name ("0.1.c"): what a file of tensors can hold."""
    return dict(_named(state, ""))


def unflatten(tensors: dict[str, Tensor], like: State) -> State:
    """The way back from `flatten`: tensors nested as in `like`.

    Raises:
        ValueError: names or shapes (but for the batch) are not those of `like`.
    """
    wanted = flatten(like)
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())
        raise ValueError(f"unflatten: the state does not fit this model: {', '.join(odd[:4])} only on one side.")
    for name, tensor in wanted.items():
        if tensor.shape[1:] != tensors[name].shape[1:]:
            raise ValueError(
                f"unflatten: the state's {name} has shape {tuple(tensors[name].shape)}, "
                f"but this model's has {tuple(tensor.shape)} (the first is the batch). Use the model that wrote it."
            )
    names = iter(wanted)
    return map_state(lambda _: tensors[next(names)], like)
