"""Every law of contract.py, over every op, backend and type."""

from collections.abc import Iterator

import pytest
import torch

from tests.ops import contract


def _name(part) -> str:
    return getattr(part, "__name__", None) or getattr(part, "name", None) or str(part).removeprefix("torch.")


def _cases() -> Iterator:
    """On a machine with a GPU its backend's laws run there, and only when asked for, as all that needs one."""
    for case in contract.cases():
        device = case[2] == "triton" and torch.cuda.is_available()
        yield pytest.param(*case, marks=[pytest.mark.gpu] if device else [])


@pytest.mark.parametrize(("law", "spec", "backend", "kind"), list(_cases()), ids=_name)
def test_law(law, spec, backend, kind):
    torch.compiler.reset()
    with contract.ground(backend):
        assert law(spec, backend, kind) <= contract.TOLERANCE[kind]
