"""What all pictures share: whether they can be drawn, an empty figure, and a PNG that is written whole."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exgate.files import replaced

ABSENT = "it needs the package 'matplotlib' (pip install 'exgate[plot]')"


def available() -> bool:
    """Whether the package that draws is installed."""
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def empty(width: float, height: float, what: str = "a picture") -> Any:
    """A figure of so many inches, that no window will ever show.

    Raises:
        ImportError: matplotlib is not installed; `what` could not be drawn.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"exgate: drawing {what} needs the package 'matplotlib'. Install the extra: pip install 'exgate[plot]'"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def show(draw: Callable[[Path], Path], path: Path) -> None:
    """Draws a picture to the path and prints where it is, or why there is none."""
    print(f"picture: {draw(path)}" if available() else f"no picture: {ABSENT}")


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """The figure as a PNG; returns its path."""
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return Path(path)
