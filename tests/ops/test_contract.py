"""Every law of contract.py, over every op, backend and type."""

import pytest
import torch

from tests.ops import contract


def _name(part) -> str:
    return getattr(part, "__name__", None) or getattr(part, "name", None) or str(part).removeprefix("torch.")


@pytest.mark.parametrize(("law", "spec", "backend", "kind"), list(contract.cases()), ids=_name)
def test_law(law, spec, backend, kind):
    torch.compiler.reset()
    assert law(spec, backend, kind) <= contract.TOLERANCE[kind]
