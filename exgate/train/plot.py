"""Pictures: the loss of a run over the tokens that it has read, and where a decoder looked."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exgate.figure import empty, save

COLOURS = ("#0b6e99", "#d1495b", "#4f9d69", "#8d6a9f", "#e08e45")


def draw(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], *, title: str = "", unit: str = ""
) -> Path:
    """Draws the rows of `metrics.jsonl` of one or several runs into one PNG.

    Each run: its training loss as measured (faint) and smoothed (line), and its validation loss (points).

    Args:
        runs: rows by the name that the legend gives them.
        unit: "bits_per_byte" or "loss" (nats per token); by default the first where every run has it.
    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = empty(8, 4.5, "a loss curve")
    every = [row for rows in runs.values() for row in rows if "loss" in row]
    unit = unit or ("bits_per_byte" if every and all("bits_per_byte" in row for row in every) else "loss")
    axes = figure.add_subplot()
    tops, labels = [], []
    for number, (name, rows) in enumerate(runs.items()):
        colour = COLOURS[number % len(COLOURS)]
        train = [(row["tokens"], row[unit]) for row in rows if unit in row]
        held_out = [(row["tokens"], row[f"validation_{unit}"]) for row in rows if f"validation_{unit}" in row]
        if train:
            x, y = [point[0] for point in train], [point[1] for point in train]
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=1)
            axes.plot(x, smooth(y), color=colour, linewidth=1.8, label=f"{name}, training")
            tops.append(max(smooth(y)[len(y) // 25 :]))
        if held_out:
            x, y = [point[0] for point in held_out], [point[1] for point in held_out]
            points = {"color": colour, "markersize": 5, "markeredgecolor": "white", "linewidth": 0.8}
            axes.plot(x, y, "o--", label=f"{name}, validation", **points)
            labels.append((y[-1], x[-1], colour))
    if tops:
        # The first steps are far above the rest; without a limit they would flatten all that matters.
        axes.set_ylim(top=1.05 * max(tops))
    _label(axes, labels)
    axes.set_xlabel("tokens read")
    axes.set_ylabel("bits per byte" if unit == "bits_per_byte" else "loss (nats per token)")
    axes.xaxis.set_major_formatter(lambda value, _: human(value))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if every:
        axes.legend(frameon=False)
    axes.set_title(title, loc="left", fontsize=11)
    return save(figure, path)


def _label(axes: Any, labels: Sequence[tuple[float, float, str]]) -> None:
    """Writes each value (y, x, colour) beside its point, above the label of the next lower one."""
    low, high = axes.get_ylim()
    points = 72 * axes.figure.get_figheight() * axes.get_position().height / (high - low)  # of paper, per unit
    last = -math.inf
    for y, x, colour in sorted(labels):
        last = max(y * points + 6, last + 12)
        place = {"xytext": (6, last - y * points), "textcoords": "offset points", "color": colour, "fontsize": 9}
        axes.annotate(f"{y:.3f}", (x, y), **place)


def draw_attention(
    weights: Any, source: Sequence[str], target: Sequence[str], path: str | os.PathLike[str], *, title: str = ""
) -> Path:
    """Draws where a decoder looked into one PNG: a row per target token, a column per source token, dark is much.

    Args:
        weights: (target, source), between 0 and 1.
        source, target: the tokens as text, as many as there are columns and rows.
    Raises:
        ValueError: the numbers of tokens are not those of the weights.
        ImportError: matplotlib is not installed.
    """
    rows, columns = len(weights), len(weights[0])
    if (rows, columns) != (len(target), len(source)):
        raise ValueError(
            f"plot: weights are {rows} by {columns}, but there are {len(target)} target and {len(source)} source tokens"
        )
    figure = empty(2 + 0.35 * columns, 1.5 + 0.3 * rows, "an attention map")
    axes = figure.add_subplot()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(columns), source, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(rows), target)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    return save(figure, path)


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Each value's mean with its neighbours on both sides, equally many, `share` of all values together.

    Unlike a running average it does not lag behind a falling curve; towards the ends it takes fewer.
    """
    half = round(share * len(values) / 2)
    result = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        part = values[i - reach : i + reach + 1]
        result.append(sum(part) / len(part))
    return result


def human(value: float) -> str:
    """1,500,000 as 1.5M."""
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"
