"""What every test gets: a fixed seed, and one thread per worker when several run at once."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked gpu or slow run only when asked for: `pytest -m slow`, `pytest -m gpu`, or by naming the test."""
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    chosen, left = [], []
    for item in items:
        (left if item.get_closest_marker("gpu") or item.get_closest_marker("slow") else chosen).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers for each test, whatever ran before it in the same process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
