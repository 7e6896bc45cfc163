"""Tables of text, in a terminal and in Markdown, and a bar over the steps of a fit; no command itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


@contextmanager
def progress(console: Console, words: str, steps: int) -> Iterator[Callable[[int, float], None]]:
    """A bar while something learns, that is gone when it ends; it is told each step and its loss."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(words, total=steps or None, loss="")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"loss {loss:.3f}")


def show(rows: list[list[str]], title: str, caption: str, console: Console) -> None:
    """Prints rows, the first being the head, in as many tables as the terminal's width asks for."""
    for part in _parts(rows, console.width):
        console.print(_shown(part, title, caption))


def _parts(rows: list[list[str]], width: int) -> Iterator[list[list[str]]]:
    """The table in pieces that fit the terminal, each with the first column in front: no column is cut."""
    first, *columns = ([*column] for column in zip(*rows, strict=True))
    widths = [3 + max(len(line) for cell in column for line in cell.split(", ")) for column in (first, *columns)]
    part, used = [first], 1 + widths[0]
    for column, wide in zip(columns, widths[1:], strict=True):
        if len(part) > 1 and used + wide > width:
            yield [list(row) for row in zip(*part, strict=True)]
            part, used = [first], 1 + widths[0]
        part.append(column)
        used += wide
    yield [list(row) for row in zip(*part, strict=True)]


def _shown(rows: list[list[str]], title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption)
    table.add_column(rows[0][0], no_wrap=True)
    for name in rows[0][1:]:
        table.add_column(name.replace(", ", "\n"), justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown(rows: list[list[str]], caption: str) -> str:
    """Rows, the first being the head, as a table of Markdown with a line below it."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{caption}"
