"""Covariates as a network reads them: numbers standardised as in training, categories as whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from exgate.forecast.frame import Columns, Frame, Panel, some
from exgate.forecast.windows import Series, own_units


@dataclass(kw_only=True)
class Known:
    """What was seen of covariates in training; all of it plain numbers and text, for a JSON file.

    Args:
        columns: which there are.
        mean, deviation: of each numeric column.
        categories: the values of each categorical static column; 0 stands for any other.
    """

    columns: Columns
    mean: dict[str, float] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)
    categories: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def static_numbers(self) -> list[str]:
        """The static columns that are numbers, not categories."""
        return [name for name in self.columns.stat if name not in self.categories]

    def learn(self, panel: Panel, static: Frame | None) -> None:
        """Take means, deviations and categories from the training data."""
        for names, arrays in ((self.columns.hist, panel.hist), (self.columns.futr, panel.futr)):
            for place, name in enumerate(names):
                self._measure(name, np.concatenate([array[:, place] for array in arrays]))
        if static is None:
            return
        rows = self._rows(static, panel.ids)
        for name in self.columns.stat:
            column = rows[name]
            if column.dtype.kind in "iufb":
                self._measure(name, column.to_numpy(float))
            else:
                self.categories[name] = sorted({str(value) for value in column.dropna()})

    def series(
        self,
        panel: Panel,
        static: Frame | None,
        futr: Sequence[np.ndarray] | None = None,
        *,
        device: torch.device,
        together: bool = False,
    ) -> Series:
        """A panel for a network on this device: each series a row of its own, or `together`, all the channels of one.

        `futr` are the known columns to the end of a horizon.
        """
        columns = self.columns
        numbers = categories = None
        if columns.stat:
            if static is None:
                raise ValueError(f"forecast: the model has static columns {some(columns.stat)}: give static_df.")
            rows = self._rows(static, panel.ids)
            if self.static_numbers:
                parts = [self._standard(name, rows[name].to_numpy(float)) for name in self.static_numbers]
                numbers = np.stack(parts, 1)
            if self.categories:
                parts = [
                    [1 + known.index(str(value)) if str(value) in known else 0 for value in rows[name]]
                    for name, known in self.categories.items()
                ]
                categories = np.array(parts).T
        return Series(
            values=[np.stack(panel.values, 1)] if together else [values[:, None] for values in panel.values],
            past=[self._standardised(columns.hist, array) for array in panel.hist] if columns.hist else None,
            future=[self._standardised(columns.futr, array) for array in (panel.futr if futr is None else futr)]
            if columns.futr
            else None,
            static=numbers,
            categories=categories,
            device=device,
        )

    def sizes(self) -> dict[str, Any]:
        """How many there are of each kind: fields of `patch_xlstm.Config`."""
        return {
            "past": len(self.columns.hist), "future": len(self.columns.futr), "static": len(self.static_numbers),
            "categories": tuple(1 + len(values) for values in self.categories.values()),
        }  # fmt: skip

    def _measure(self, name: str, values: np.ndarray) -> None:
        middle, spread = own_units(values[None, :, None])
        self.mean[name], self.deviation[name] = float(middle.item()), float(spread.item())

    def _standard(self, name: str, values: np.ndarray) -> np.ndarray:
        return (values - self.mean[name]) / self.deviation[name]

    def _standardised(self, names: Sequence[str], array: np.ndarray) -> np.ndarray:
        return np.stack([self._standard(name, array[:, place]) for place, name in enumerate(names)], 1)

    def _rows(self, static: Frame, ids: list[Any]) -> Frame:
        """The row of each series, in their order."""
        key = self.columns.unique_id
        missing = [name for name in (key, *self.columns.stat) if name not in static.columns]
        if missing:
            has = ", ".join(map(str, static.columns))
            raise ValueError(f"forecast: static_df has no column {some(missing)}; its columns are {has}.")
        if static[key].duplicated().any():
            twice = static[key][static[key].duplicated()].iloc[0]
            raise ValueError(
                f"forecast: static_df has several rows for the series {twice!r}; it should have one for each."
            )
        rows = static.set_index(key)
        absent = [name for name in ids if name not in rows.index]
        if absent:
            raise ValueError(f"forecast: static_df has no row for {some(absent)}. Add it; values may be missing.")
        return rows.loc[ids]
