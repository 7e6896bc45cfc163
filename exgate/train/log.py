"""The record of a run: metrics as lines of JSON, TensorBoard events, and what the terminal shows."""

import errno
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from exgate import files

METRICS, TIMING, TENSORBOARD = "metrics.jsonl", "timing.jsonl", "tensorboard"


class Log:
    """Writes the rows of a run.

    `metrics.jsonl` holds what the computation determines and nothing else, so that a run that was interrupted ends with
    the same bytes as one that was not; tokens per second and seconds go to `timing.jsonl`.

    Args:
        folder: of the run.
        step: rows after this step, left by a run that was killed after its last checkpoint, are cut off.
        tensorboard: write events to `tensorboard/` as well.
    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, step: int = 0, tensorboard: bool = False):
        self._folder = Path(folder)
        self._events: Any = _events(self._folder / TENSORBOARD, step) if tensorboard else None
        for name in (METRICS, TIMING):
            _cut(self._folder / name, step)
        self._metrics = open(self._folder / METRICS, "a", encoding="utf-8")  # noqa: SIM115
        self._timing = open(self._folder / TIMING, "a", encoding="utf-8")  # noqa: SIM115

    def metrics(self, row: dict[str, Any]) -> None:
        """Adds a row with "step" and numbers that a repetition of the run would give again."""
        self._add(self._metrics, row)

    def timing(self, row: dict[str, Any]) -> None:
        """Adds a row with "step" and numbers that depend on the clock."""
        self._add(self._timing, row)

    def _add(self, stream: Any, row: dict[str, Any]) -> None:
        try:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise OSError(
                f"log: '{stream.name}' could not be written: {reason}. Make room and start the same command again: "
                "the run goes on from its last checkpoint."
            ) from error
        if self._events is not None:
            for key, value in row.items():
                if key != "step":
                    part = "validation" if key.startswith("validation_") else "train"
                    self._events.add_scalar(f"{part}/{key.removeprefix('validation_')}", value, row["step"])

    def sync(self) -> None:
        """Makes sure that the rows are on the disk: called before a checkpoint that counts on them."""
        os.fsync(self._metrics.fileno())

    def close(self) -> None:
        """Close the files. The record is on the disk then."""
        for stream in (self._metrics, self._timing):
            # What could not be written has been reported; closing would only report it again.
            with suppress(OSError):
                stream.close()
        if self._events is not None:
            self._events.close()


def rows(folder: str | os.PathLike[str], name: str = METRICS) -> list[dict[str, Any]]:
    """The rows of a run, those of its beginning first; a half-written last line is left out."""
    file = Path(folder) / name
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _cut(file: Path, step: int) -> None:
    if not file.exists():
        return
    kept = [json.dumps(row) + "\n" for row in rows(file.parent, file.name) if row["step"] <= step]
    files.write(file, "".join(kept))


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "exgate: writing TensorBoard events needs the package 'tensorboard'. "
            "Install the extra: pip install 'exgate[log]', or leave run.tensorboard false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)


class Display:
    """A progress bar on a terminal, a line for each row elsewhere.

    Args:
        steps: of the whole run. step: those already done.
        say: where lines go; None is standard output.
        quiet: no bar and no lines, only notes.
    """

    def __init__(self, steps: int, *, step: int = 0, say: Callable[[str], None] | None = None, quiet: bool = False):
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._say, self._quiet, self._steps = say or self._print, quiet, steps
        self._bar: Any = None
        self._clock = time.monotonic()
        self._first = step
        if self._console.is_terminal and not quiet:
            self._bar, self._task = _bar(self._console, steps, step)

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int) -> None:
        """Move the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def row(self, step: int, row: dict[str, float], tokens_per_second: float) -> None:
        """Shows a row: loss in nats per token, bits per byte where known, the learning rate, speed and time left."""
        seconds = (time.monotonic() - self._clock) / max(1, step - self._first) * (self._steps - step)
        words = [f"loss {row['loss']:.4f}"]
        if "bits_per_byte" in row:
            words.append(f"{row['bits_per_byte']:.3f} bits/byte")
        words += [f"lr {row['lr']:.2e}", f"{tokens_per_second:,.0f} tokens/s", f"{duration(seconds)} left"]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, words="  ".join(words))
        elif not self._quiet:
            self._say(f"step {step:>{len(str(self._steps))}}/{self._steps}  " + "  ".join(words))

    def note(self, text: str) -> None:
        """Shows a line that is not about one row: a validation score, a checkpoint, a warning."""
        self._say(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)


def _bar(console: Any, steps: int, step: int) -> tuple[Any, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
    bar = Progress(*columns, console=console, refresh_per_second=4)
    return bar, bar.add_task("train", total=steps, completed=step, words="")


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Bits per byte of the text itself, from the loss and from how many bytes of UTF-8 a token stands for."""
    return nats_per_token / bytes_per_token / math.log(2)


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 10 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
