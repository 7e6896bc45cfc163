"""What every test gets: a fixed seed, one thread per worker when several run at once, the instruction set asked for."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from exgate.ops import native

KERNELS = ("test_triton.py", "test_triton_cross_entropy.py", "test_persistent.py", "test_decode.py")

if not torch.cuda.is_available():  # before anything imports Triton: its kernels are tested in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)  # what is captured is no terminal of any kind

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "run every test with the kernels compiled for NAME: v4, v3, base or arm64; or with none of them"
    parser.addoption("--instruction-set", metavar="NAME", help=words)
    words = "a folder of data sets that the repository does not hold, for the tests that read them (else skipped)"
    parser.addoption("--data", metavar="FOLDER", type=Path, help=words)


def pytest_configure(config: pytest.Config) -> None:
    """Before collection, because tests of the kernels are made for, or skipped by, what `native.usable` says then."""
    native._said = True  # that there are no kernels: a test reads what its own command says
    forced = ExitStack()
    config.add_cleanup(forced.close)
    if config.option.instruction_set:
        try:
            forced.enter_context(native.instruction_set(config.option.instruction_set))
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> str:
    forced = " (--instruction-set)" if config.option.instruction_set else ""
    return f"instruction set: {next(iter(native.usable()), 'none')}{forced}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked gpu or slow run only when asked for: `pytest -m slow`, `pytest -m gpu`, or by naming the test.

    On a machine with a GPU those of Triton's kernels need it.
    """
    for item in items if torch.cuda.is_available() else ():
        if item.path.name in KERNELS:
            item.add_marker(pytest.mark.gpu)
    if config.option.markexpr or any("::" in argument for argument in config.args):
        return
    chosen, left = [], []
    for item in items:
        (left if item.get_closest_marker("gpu") or item.get_closest_marker("slow") else chosen).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = chosen


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The path of a data set by the name of its file, anywhere below --data; without it the test is skipped."""

    def find(name: str) -> Path:
        folder = request.config.option.data
        if folder is None:
            pytest.skip(f"reads {name}, which the repository does not hold: pytest --data FOLDER")
        found = sorted(folder.rglob(name))
        return found[0] if found else pytest.skip(f"there is no {name} below {folder}")

    return find


@pytest.fixture
def instruction_set() -> str:
    """What kernels this run uses, for the processes that a test starts: they do not see --instruction-set."""
    return next(iter(native.usable()), "none")


@pytest.fixture
def place() -> Iterator[None]:
    """New tensors are where Triton's kernels run: on the GPU, if there is one."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        yield


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers for each test, whatever ran before it in the same process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
