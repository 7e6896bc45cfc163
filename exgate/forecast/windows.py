"""Series as arrays, and windows of them: what is read, what follows, and what else is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exgate.models.patch_xlstm import Covariates

ROUNDING = 1e-12  # a deviation of less than this share of the mean is that of a constant


class Units(NamedTuple):
    """What numbers of each window count in, float64 (B, 1, C): (value - middle) / spread.

    Networks read float32, in which a variation of 1 around 1e9 is lost. They have scales of their own besides.
    """

    middle: np.ndarray
    spread: np.ndarray

    def invert(self, values: np.ndarray) -> np.ndarray:
        """(B, T, C) in these units -> in those of the series."""
        return values * self.spread + self.middle


class Rows(NamedTuple):
    """B windows of L steps that are read and H that follow, NaN where there is nothing.

    Args:
        read: (B, L, C); follow: (B, H, C); both in the windows' units.
        known: covariates: past (B, L, past), future (B, L + H, future), static and categories.
        units: of each window.
    """

    read: Tensor
    follow: Tensor
    known: Covariates
    units: Units


PLAIN = Units(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))  # the units that are given


def own_units(windows: np.ndarray) -> Units:
    """The mean and the deviation of each window (B, L, C), missing values left out; that of a constant is 1."""
    known = ~np.isnan(windows)
    count = np.maximum(known.sum(1, keepdims=True), 1)
    middle = np.where(known, windows, 0).sum(1, keepdims=True) / count
    spread = np.sqrt(np.square(np.where(known, windows - middle, 0)).sum(1, keepdims=True) / count)
    return Units(middle, np.where(spread > ROUNDING * np.abs(middle), spread, 1.0))


def joined(units: Iterable[Units]) -> Units:
    """Units of windows one after the other."""
    return Units(*(np.concatenate(parts) for parts in zip(*units, strict=True)))


@dataclass(frozen=True, kw_only=True)
class Series:
    """S rows of C series each, of unequal length, with what else is known of them.

    Args:
        values: S arrays (T_i, C), NaN where missing.
        past: S arrays (T_i, past) or None; future: S arrays (T_i or more, future) or None.
        static: (S, static) numbers or None; categories: (S, categories) whole numbers or None.
        device: where windows are.
    """

    values: Sequence[np.ndarray]
    past: Sequence[np.ndarray] | None = None
    future: Sequence[np.ndarray] | None = None
    static: np.ndarray | None = None
    categories: np.ndarray | None = None
    device: torch.device | None = None

    def rows(
        self,
        places: np.ndarray,
        steps: int,
        horizon: int,
        *,
        units: Units | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Rows:
        """The windows at `places` (B, 2): (row, how many of its steps lie before the horizon).

        Args:
            units: of the values; None: each window's own, of what it reads. What follows a series that then has less
                than two values is left out: it would count in no units.
        """

        def tensor(array: np.ndarray, dtype: torch.dtype = dtype) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=self.device)

        def cut(arrays: Sequence[np.ndarray], before: int, after: int) -> np.ndarray:
            return np.stack([_cut(arrays[row], end - before, end + after) for row, end in places])

        which = places[:, 0]
        whole = cut(self.values, steps, horizon)
        if units is None:
            units = own_units(whole[:, :steps])
            unmeasured = (~np.isnan(whole[:, :steps])).sum(1, keepdims=True) < min(2, steps)
            whole = np.concatenate([whole[:, :steps], np.where(unmeasured, np.nan, whole[:, steps:])], 1)
        values = tensor((whole - units.middle) / units.spread)
        known = Covariates(
            past=None if self.past is None else tensor(cut(self.past, steps, 0)),
            future=None if self.future is None else tensor(cut(self.future, steps, horizon)),
            static=None if self.static is None else tensor(self.static[which]),
            categories=None if self.categories is None else tensor(self.categories[which], torch.long),
        )
        return Rows(values[:, :steps], values[:, steps:], known, units)

    def batches(self, places: np.ndarray, size: int, *of: int, **options: Any) -> Iterator[Rows]:
        """`rows(places, *of, **options)`, at most `size` at a time."""
        for begin in range(0, len(places), size):
            yield self.rows(places[begin : begin + size], *of, **options)

    def places(self, steps: int, horizon: int, *, first: int | None = None, leave: int = 0) -> np.ndarray:
        """Where windows can lie: (row, steps before the horizon), (N, 2).

        Args:
            steps: how many steps are read; a row may have fewer before a horizon, half of them at least. Of these, at
                least half of the share is known that is known of the whole row (a long gap is no window), and two: one
                value alone has no units.
            first: steps before the first horizon, in place of that; negative: counted from the end, but no fewer.
            leave: steps at the end that no horizon reaches.
        """
        found = []
        for row, values in enumerate(self.values):
            last = len(values) - leave - horizon
            least = min(steps, max(1, steps // 2))
            begin = least if first is None else first if first >= 0 else max(least, len(values) + first)
            ends = np.arange(max(begin, 1), last + 1)
            known = np.r_[0, (~np.isnan(values)).any(1).cumsum()]
            begins = np.maximum(0, ends - steps)
            count = known[ends] - known[begins]
            enough = (count >= min(2, steps)) & (2 * count * len(values) >= (ends - begins) * known[-1])
            ends = ends[enough]
            found.append(np.stack([np.full(len(ends), row), ends], 1))
        return np.concatenate(found) if found else np.zeros((0, 2), int)


def evenly(items: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly chosen from the first to the last."""
    return items[np.linspace(0, len(items) - 1, min(len(items), most)).astype(int)]


def _cut(array: np.ndarray, begin: int, end: int) -> np.ndarray:
    """array[begin:end], NaN outside."""
    inside = array[max(0, begin) : max(0, end)]
    front, back = max(0, -begin), max(0, end - max(len(array), begin))
    if not front and not back:
        return inside
    return np.pad(
        inside.astype(float), ((min(front, end - begin), min(back, end - begin)), (0, 0)), constant_values=np.nan
    )
