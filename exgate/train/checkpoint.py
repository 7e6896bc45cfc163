"""Checkpoints: folders that are there whole or not at all, with the sums to prove it, and without pickle.

`RUN/checkpoints/step-00000500/` is a model folder (`model.safetensors`, `config.json`, `tokenizer.json`) with
`training.safetensors` (the optimizer's tensors, random states, the carried state), `training.json` (the place in the
data, the meters) and `checksums.json` (SHA-256 of every other file). `RUN/best/` is a model folder.
"""

import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from exgate import files
from exgate.models import io

FOLDER, BEST = "checkpoints", io.BEST
MODEL, TENSORS, RECORD, SUMS = "model.safetensors", "training.safetensors", "training.json", "checksums.json"


class Saved(Protocol):
    """Anything that writes a file of its own into a folder: a tokenizer."""

    def save(self, folder: str | os.PathLike[str], /) -> Any: ...


class Checkpoint(NamedTuple):
    """What a checkpoint holds beside the model: its folder and step, tensors by name, and what JSON can say."""

    folder: Path
    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


class Damaged(ValueError):
    """A file of a checkpoint is missing or not as it was written."""


class Unwritable(OSError):
    """The disk is full, or took no file for another reason. Nothing that was there before has been touched."""


def save(
    run: str | os.PathLike[str],
    step: int,
    model: nn.Module,
    *,
    tensors: dict[str, Tensor],
    record: dict[str, Any],
    tokenizer: Saved | None = None,
    keep: int = 2,
) -> Path:
    """Writes `RUN/checkpoints/step-...` and removes all but the last `keep`; returns the folder.

    Everything goes into a folder with a temporary name, is flushed to the disk, and takes its name at the end, so that
    a reader, or the next run after a power cut, sees the whole or nothing.

    Raises:
        Unwritable: with the step, the reason, and the newest checkpoint that remains.
    """
    root = Path(run) / FOLDER
    final = root / f"step-{step:08d}"
    with _whole(final, f"the checkpoint of step {step}", newest(run)) as folder:
        _write_model(folder, model, tokenizer)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS)
        _write_json(folder / RECORD, {"version": 1, "step": step, **record})
        _write_json(folder / SUMS, {file.name: _sum(file) for file in sorted(folder.iterdir())})
    for old in _steps(run)[: -max(1, keep)]:
        _discard(old)
    return final


def save_best(run: str | os.PathLike[str], model: nn.Module, *, record: dict[str, Any], tokenizer: Saved | None = None):
    """Writes the model folder `RUN/best/` in place of the one before it."""
    with _whole(Path(run) / BEST, "the best model", newest(run)) as folder:
        _write_model(folder, model, tokenizer)
        _write_json(folder / "score.json", record)
        _write_json(folder / SUMS, {file.name: _sum(file) for file in sorted(folder.iterdir())})


def newest(run: str | os.PathLike[str]) -> Path | None:
    """The folder of the newest checkpoint, unread; None if there is none."""
    return next(iter(reversed(_steps(run))), None)


def load(folder: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint, but for the model, after all its files have been compared with their sums.

    Raises:
        Damaged: names the file, and the way on: delete the folder, and the next older one is taken.
    """
    folder = Path(folder)
    verify(folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return Checkpoint(folder, record["step"], load_file(folder / TENSORS), record)


def load_model(folder: str | os.PathLike[str], model: nn.Module) -> None:
    """Fills a model with the weights of a model folder.

    Raises:
        ValueError: the weights are not those of such a model.
    """
    try:
        model.load_state_dict(load_file(Path(folder) / MODEL))
    except RuntimeError as error:
        raise ValueError(f"checkpoint: the weights in '{folder}' do not fit this model: {error}") from None


def verify(folder: str | os.PathLike[str]) -> None:
    """Compares every file of a checkpoint with its sum. Raises Damaged as `load` does."""
    folder = Path(folder)
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        damaged = [name for name, digest in sums.items() if _differs(folder / name, digest)]
        if not {MODEL, *((TENSORS, RECORD) if folder.name.startswith("step-") else ())} <= sums.keys():
            damaged = [SUMS]
    except (OSError, ValueError, AttributeError):
        damaged = [SUMS]
    if not damaged:
        return
    best = folder.name == BEST
    others = [step for step in _steps(folder.parent if best else folder.parent.parent) if best or step < folder]
    if best:
        after = f"the newest checkpoint, {others[-1].name}, is then taken" if others else "the run has no checkpoint"
    elif others:
        after = f"the run then goes on from {others[-1].name}"
    else:
        after = "there is no older one: the run then starts anew"
    raise Damaged(
        f"checkpoint: '{folder / damaged[0]}' is damaged (it is missing, or not as it was written). "
        f"Delete the folder '{folder}' and start again; {after}."
    )


def model_folder(path: str | os.PathLike[str]) -> Path:
    """The model folder that a path means: itself, a run's best, or else a run's newest checkpoint that is intact.

    A path that is no folder (a file of weights, a name on the hub) is returned as it is.

    Raises:
        FileNotFoundError: a folder with neither a model nor a run in it.
        Damaged: a run whose checkpoints are all damaged.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "config.json").exists() or any(folder.glob("*.safetensors*")):
        return folder
    if (folder / BEST).is_dir():
        verify(folder / BEST)
        return folder / BEST
    steps = _steps(folder)
    for step in reversed(steps):
        try:
            verify(step)
        except Damaged:
            if step == steps[0]:
                raise
            continue
        return step
    if (folder / "recipe.toml").exists():
        raise FileNotFoundError(f"checkpoint: the run '{folder}' has written no checkpoint yet")
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return folder
    raise FileNotFoundError(
        f"checkpoint: '{folder}' is neither a model folder (config.json) nor a run folder (checkpoints/)"
    )


def random_states() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the random numbers of Python, numpy and torch (all devices): tensors, and what JSON can say."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "random.python": torch.tensor(words, dtype=torch.int64),
        "random.numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "random.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return tensors, {"python": [version, gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]}


def restore_random_states(tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """The way back from `random_states`."""
    version, gauss = record["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss))
    kind, position, has_gauss, cached = record["numpy"]
    np.random.set_state((kind, tensors["random.numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["random.torch"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"random.cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{i}"], i)


def tidy(run: str | os.PathLike[str]) -> None:
    """Clears away what a killed run left half done: temporary folders, and a best model caught between two names."""
    run = Path(run)
    old = run / f".old-{BEST}"
    if old.exists() and not (run / BEST).exists():
        os.rename(old, run / BEST)
    for where in (run, run / FOLDER):
        for left in [*where.glob(".tmp-*"), *where.glob(".old-*")]:
            shutil.rmtree(left, ignore_errors=True)


def _steps(run: str | os.PathLike[str]) -> list[Path]:
    """The folders of all checkpoints, oldest first."""
    return sorted(folder for folder in (Path(run) / FOLDER).glob("step-*") if folder.is_dir())


@contextmanager
def _whole(final: Path, what: str, last: Path | None) -> Iterator[Path]:
    """A folder to write into that becomes `final` at the end, or vanishes if something goes wrong."""
    temporary = final.with_name(f".tmp-{final.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            files.flush(file)
        files.flush(temporary)
        old = final.with_name(f".old-{final.name}")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.rename(final, old)
        try:
            os.rename(temporary, final)
        except OSError:
            if old.exists():
                os.rename(old, final)
            raise
        files.flush(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        kept = f"'{last}' is whole" if last else "there is no earlier one"
        raise Unwritable(
            f"checkpoint: {what} could not be written to '{final}': {reason}. Make room and start the same command "
            f"again. The last checkpoint before it: {kept}."
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_model(folder: Path, model: nn.Module, tokenizer: Saved | None) -> None:
    io.save(model, folder)
    if tokenizer is not None:
        tokenizer.save(folder)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _discard(folder: Path) -> None:
    # Renamed first: a removal that is cut short must not leave half a checkpoint under a checkpoint's name.
    gone = folder.with_name(f".old-{folder.name}")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sum(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _differs(file: Path, digest: str) -> bool:
    return not file.is_file() or _sum(file) != digest
