"""Files that are written whole or not at all."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; what is there at the end is flushed to the disk and takes its place.

    Whoever looks sees the old file or the new one; after an error or a kill it is the old one. The folder is made if it
    is not there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path.parent, path.name)
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


@contextmanager
def filled(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder for files that belong together; at the end they move into `folder`, one right after the other.

    All are on the disk before the first one moves: an error or a kill while they are written leaves the old ones.
    Other files of `folder`, which is made if it is not there, stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(folder, "new")
    temporary.mkdir()
    try:
        yield temporary
        made = sorted(temporary.iterdir())
        for file in made:
            flush(file)
        for file in made:
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush(folder)


def _temporary(folder: Path, name: str) -> Path:
    """A name of this process's own; what ended processes left under such names is cleared away."""
    for left in folder.glob(f".{glob.escape(name)}.*"):
        process = left.suffix.removeprefix(".")
        # One with our number is of a process before us, or of a call before this one.
        if process.isdigit() and (int(process) == os.getpid() or _ended(int(process))):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return folder / f".{name}.{os.getpid()}"


def _ended(process: int) -> bool:
    """Whether there is no such process any more, as far as can be told without disturbing it."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything else is done."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # there a folder cannot be opened, and need not be
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: str | os.PathLike[str], text: str) -> Path:
    """A text file, `replaced`; returns its path."""
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
