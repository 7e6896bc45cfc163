"""Opening a model with its tokenizer, as the commands that use one do; no command itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from exgate import hint
from exgate.cli import machine
from exgate.data import tokens
from exgate.models import io
from exgate.models.compact import compact
from exgate.train import checkpoint

DTYPES = ("float32", "float64", "bfloat16", "float16")


class Opened(NamedTuple):
    """A model that is ready to use, its tokenizer, and the folder or file that they came from."""

    model: Any
    tokenizer: tokens.Tokenizer
    folder: Path


def open_model(
    run: str,
    *,
    tokenizer: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    weights: str | None = None,
) -> Opened:
    """The model that `run` means, and the tokenizer beside it.

    Args:
        run: a run folder (its best model, else its newest checkpoint), a model folder, a file of weights, or a name on
            the Hugging Face hub, "organisation/name".
        tokenizer: a tokenizer's file or folder, where it is not beside the model.
        device: None takes a GPU if there is one.
        dtype: the number type of the weights; None leaves that of the file.
        weights: "bf16" or "int8" stores the large matrices so (see `exgate.models.compact`); None leaves them.
    Raises:
        ValueError, OSError: there is no such model or tokenizer, or they do not fit each other.
    """
    where = machine.device(device)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"exgate: dtype is '{dtype}', but should be one of {', '.join(DTYPES)}.")
    folder = checkpoint.model_folder(_path(run))
    # Before the weights: a missing tokenizer should not take a minute to be noticed.
    found = tokens.load(tokenizer or (folder.parent if folder.is_file() else folder))
    model: Any = io.load(folder, device=where, dtype=None if dtype is None else getattr(torch, dtype))
    tokens.check(found, model.config.vocab_size)
    model = model.eval() if weights is None else compact(model, weights)
    return Opened(model, found, folder)


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Where there was too little memory, one sentence with `remedy` takes the place of PyTorch's report."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        raise ValueError(f"exgate: the memory is too small for this. {remedy}") from error


def _path(run: str) -> Path:
    path = Path(run).expanduser()
    if path.exists():
        return path
    # "runs/smal" is a slip where there is a folder "runs", "organisation/name" a name on the hub where there is none.
    if run.count("/") == 1 and not run.startswith((".", "~", "/")) and not path.parent.is_dir():
        return io.local(run)
    near = hint.beside(path)
    advice = f"Did you mean '{near}'?" if near else "`exgate train` makes one."
    raise FileNotFoundError(f"exgate: there is no run or model '{run}'. {advice}")
