"""The pictures of the suites: a heat map of models by problems, and curves side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exgate.figure import empty, save

COLOURS = (
    "#0b6e99", "#d1495b", "#4f9d69", "#8d6a9f", "#e08e45", "#30343f", "#5fa8d3", "#b5838d", "#a3b18a", "#6c757d",
    "#c9a227", "#7f4f24", "#2ec4b6",
)  # fmt: skip
Curve = tuple[Sequence[float], Sequence[float | None]]


def heat(values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], path: Path) -> Path:
    """Numbers from 0 to 1 as a map, each in its field; None is empty, what is below 0 has the colour of 0."""
    figure = empty(2 + 0.75 * len(columns), 1.6 + 0.42 * len(rows))
    axes = figure.add_subplot()
    colours = [[0.0 if value is None else value for value in row] for row in values]
    axes.imshow(colours, vmin=0, vmax=1, cmap="YlGnBu", aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            text = "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # no -0.00
            colour = "white" if value is not None and value > 0.55 else "black"
            axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return save(figure, path)


def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    path: Path,
    *,
    x: str,
    y: str,
    log: bool = False,
    top: float | None = None,
    ticks: Sequence[str] = (),
    mark: float | None = None,
) -> Path:
    """One panel per entry, one line per name in it: (places, values), None being a gap. A name keeps its colour.

    Where all lines of a panel have one place, there are bars.
    `ticks` are words for the places 0, 1, 2, ...; `mark` is a place with a dotted line: how far training went.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = empty(1.5 + 4 * across, 0.6 + 3 * down)
    for number, (title, lines) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(down, across, number)
        colours = {name: COLOURS[names.index(name) % len(COLOURS)] for name in lines}
        if all(len(places) == 1 for places, _ in lines.values()):
            _bars(axes, {name: values[0] for name, (_, values) in lines.items()}, colours, y)
        else:
            _lines(axes, lines, colours)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            if mark is not None:
                axes.axvline(mark, color="0.5", linestyle=":", linewidth=1)
            if ticks:
                axes.set_xticks(range(len(ticks)), ticks, rotation=20, fontsize=8)
            if log:
                axes.set_yscale("log")
            if top is not None:
                axes.set_ylim(-0.05, top)
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    drawn = {title: lines for title, lines in panels.items() if any(len(places) > 1 for places, _ in lines.values())}
    if drawn:
        fullest = max(drawn.values(), key=len)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(fullest) > 6 else {}
        figure.axes[list(panels.values()).index(fullest)].legend(frameon=False, fontsize=8, **place)
    return save(figure, path)


def _lines(axes: Any, lines: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
    for name, (places, values) in lines.items():
        marker = "o" if len(places) < 12 else ""
        numbers = [float("nan") if value is None else value for value in values]
        axes.plot(places, numbers, label=name, color=colours[name], marker=marker, markersize=4, linewidth=1.6)


def _bars(axes: Any, values: Mapping[str, float | None], colours: Mapping[str, str], measure: str) -> None:
    """A bar for each name, from top to bottom, with its number at the end."""
    for place, (name, value) in enumerate(values.items()):
        bar = axes.barh(place, value or 0.0, color=colours[name], height=0.7)
        axes.bar_label(bar, ["" if value is None else f"{value:.3g}"], padding=3, fontsize=8)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(measure)
