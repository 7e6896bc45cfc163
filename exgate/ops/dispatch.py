"""Choice of backend, and the checks that every op shares."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

NAMES = ("cpu", "triton", "eager", "reference")  # of all ops' backends
_forced: str | None = None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on the backend `name`, where the op has one of that name.

    An op without such a backend keeps its own best, and takes its "eager" for "reference". A backend that has to refuse
    a call raises with its reason, as it does when it is named by `backend=`, which goes before this block. The choice
    is global to the process.

    Raises:
        ValueError: no op has a backend of that name.
    """
    global _forced
    if name not in NAMES:
        raise ValueError(f"use_backend: there is no backend {name!r}. Use one of {', '.join(map(repr, NAMES))}.")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """The name that `use_backend` has set."""
    return _forced


def choose(op: str, backends: dict[str, ModuleType], name: str | None, *args: Any) -> ModuleType:
    """The backend for this call: the one that is named, else the first of `backends` that does not refuse `args`.

    An empty batch goes by the definition, whoever is asked for: there is nothing to be fast at. So do transforms of
    `torch.func`, which see nothing of what happens in a custom op: jvp would take its derivative for 0.
    """
    definition = "reference" if "reference" in backends else "eager"
    asked = definition if _forced == "reference" else _forced
    if name is None and asked in backends:
        name = asked
    if args[0].shape[0] == 0 and definition == "reference" and name in (None, *backends):
        return backends[definition]
    if name is None and transformed():
        return backends[definition]
    if name is None:
        return next(backend for backend in backends.values() if backend.refuses(*args) is None)
    if name not in backends:
        raise ValueError(f"{op}: there is no backend '{name}'. Use one of {', '.join(map(repr, backends))}.")
    reason = backends[name].refuses(*args)
    if name != definition and transformed():
        reason = f"torch.func cannot see into it. Leave out the backend, or name '{definition}'"
    if reason is not None:
        raise ValueError(f"{op}: backend '{name}' cannot take this call: {reason}.")
    return backends[name]


def transformed() -> bool:
    """Whether a transform of `torch.func` (grad, jvp, vmap, ...) is under way."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore  # PyTorch's own, undeclared


def check_shape(op: str, name: str, tensor: Tensor, letters: str, sizes: dict[str, int], source: str) -> None:
    """Raise unless `tensor` has the shape that `letters` spell ("B T H K"); `sizes` come from the argument `source`."""
    names = letters.split()
    spelt = f"({', '.join(names)})"
    if tensor.dim() != len(names):
        raise ValueError(
            f"{op}: {name} has shape {tuple(tensor.shape)}, which is {tensor.dim()}-dimensional; it should be {spelt}."
        )
    shape = tuple(tensor.shape)
    for position, (letter, size) in enumerate(zip(names, shape, strict=True)):
        if letter.isdigit() and size != int(letter):
            raise ValueError(
                f"{op}: {name} has {size} in dimension {position} of {shape} = {spelt}; it should be {letter}."
            )
        if size != sizes.get(letter, size):
            wanted = f"but {source} has {letter}={sizes[letter]}"
            raise ValueError(f"{op}: {name} has {letter}={size} in shape {shape} = {spelt}, {wanted}.")


def check_sequence(op: str, name: str, tensor: Tensor, letters: str) -> dict[str, int]:
    """The sizes of the argument that the others are measured by; raise when its rank is wrong or T is 0."""
    check_shape(op, name, tensor, letters, {}, name)
    sizes = dict(zip(letters.split(), tensor.shape, strict=True))
    if not tensor.is_floating_point():
        raise ValueError(f"{op}: {name} has type {tensor.dtype}; it should be floating-point. Use {name}.float().")
    if sizes["T"] == 0:
        raise ValueError(
            f"{op}: {name} has T=0 in shape {tuple(tensor.shape)}; a sequence has at least one step. "
            "Keep the state you have instead of calling with nothing."
        )
    return sizes


def check_reset(op: str, reset: Tensor | None, sizes: dict[str, int], source: str) -> None:
    """Raise unless `reset` is absent or a (B, T) tensor of booleans."""
    if reset is None:
        return
    check_shape(op, "reset", reset, "B T", sizes, source)
    if reset.dtype != torch.bool:
        raise ValueError(f"{op}: reset has type {reset.dtype}; it should be torch.bool, True where a document begins.")


def state_type(*tensors: Tensor) -> torch.dtype:
    """The type of states and gates: float64 if any input is float64, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def full_precision(tensor: Tensor) -> torch.autocast:
    """Switch autocast off around an op: it chooses its types itself."""
    return torch.autocast(tensor.device.type, enabled=False)


def operands(q: Tensor, k: Tensor, v: Tensor) -> torch.dtype:
    """The type of the operands of the matrix products: autocast's where it is on, else the widest of the inputs'."""
    widest = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    mixed = torch.is_autocast_enabled(q.device.type) and widest != torch.float64
    return torch.get_autocast_dtype(q.device.type) if mixed else widest
