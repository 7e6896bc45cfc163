"""Where a command computes: the device that it was told, and on how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def device(name: str | None) -> torch.device:
    """The device of that name; None or "auto" is a GPU if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"exgate: the device '{name}' cannot be used here ({reason}). Try cpu.") from error
    return found


@contextmanager
def threads(most: int) -> Iterator[None]:
    """At most so many threads inside: small matrices are slower on more, and other processes want theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)
