"""Reading on: forecasts of series that grow, from kept states, at the cost of their new patches.

A model reads whole patches up to the present, so there is one state for each place that the present may have in a
patch: each new value moves one of P states by one patch, and P values later it is that state's turn again. A state
begins with the last L values, whose scale it has, and begins anew when it has read 2 L: so its forecast is that of
reading at least the last L values, and neither time nor memory grow with the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from exgate.forecast.windows import Series, Units, joined
from exgate.layers.series import Scale, scale
from exgate.models.patch_xlstm import Covariates, PatchState, PatchXLSTM
from exgate.ops.state import join, select


class Reading(NamedTuple):
    """One state: from which value on it has read, up to which (the first that it has not), and in which units."""

    state: PatchState
    begun: int
    read: int
    units: Units


@dataclass
class Reader:
    """The states of one row that grows. They have read all but the last patch before a present.

    What is ahead may be known better the next time, and the last patch is told of it: so it is read again.

    Args:
        states: of each place of the present in a patch.
    """

    states: dict[int, Reading] = field(default_factory=dict)

    def forget(self, count: int, patch: int) -> None:
        """The first `count` values of the row, whole patches, are no longer kept: count from what is left."""
        assert count % patch == 0
        self.states = {
            place: reading._replace(begun=reading.begun - count, read=reading.read - count)
            for place, reading in self.states.items()
        }


@torch.inference_mode()
def advance(model: PatchXLSTM, readers: list[Reader], series: Series, ends: list[int], steps: int) -> list[Reading]:
    """Move the readers to a present of the first `ends` values of each row; where they stand, but for a last patch.

    Args:
        steps: L, a multiple of the patch.
        series: with at least the last 2 L values of each row and their covariates; NaN in front of the first.
    """
    patch = model.config.patch
    moves: dict[tuple[int, bool], list[int]] = {}
    for row, (reader, end) in enumerate(zip(readers, ends, strict=True)):
        now = reader.states.get(end % patch)
        if now is None or not 0 <= end - patch - now.read <= steps or end - now.begun > 2 * steps:
            window = series.rows(np.array([[row, end]]), steps, 0)
            now = Reading(PatchState(scale(window.read, eps=0.0), None), end - steps, end - steps, window.units)
        if now.state.stack is None and np.isnan(series.values[row][max(0, now.read) : max(0, end - patch)]).all():
            now = now._replace(read=end - patch)  # nothing yet: a state begins with the first patch that has a value
        reader.states[end % patch] = now
        if end - patch > now.read:
            moves.setdefault((end - patch - now.read, now.state.stack is None), []).append(row)
    for (count, _), rows in moves.items():  # rows with as much to read are read together
        before = [readers[row].states[ends[row] % patch] for row in rows]
        places = np.array([[row, ends[row] - patch] for row in rows])
        part = series.rows(places, count, patch, units=joined(now.units for now in before))
        _, after = model(part.read, _joined(before), part.known)
        for place, row in enumerate(rows):
            one = select(after, torch.tensor([place], device=part.read.device))
            readers[row].states[ends[row] % patch] = before[place]._replace(state=one, read=ends[row] - patch)
    return [reader.states[end % patch] for reader, end in zip(readers, ends, strict=True)]


@torch.inference_mode()
def forecast(
    model: PatchXLSTM, readers: list[Reader], series: Series, ends: list[int], horizon: int, steps: int
) -> tuple[Tensor, Units]:
    """Quantiles (S, H, C, Q) of the `horizon` steps after the first `ends` values of each row, and their units.

    The readers go on.
    """
    now = advance(model, readers, series, ends, steps)
    places, units = np.stack([np.arange(len(ends)), ends], 1), joined(reading.units for reading in now)
    part = series.rows(places, model.config.patch, horizon, units=units)
    answers: list[Tensor] = [part.read] * len(now)
    for fresh in (False, True):  # states that have read nothing cannot be joined with others
        rows = [row for row, reading in enumerate(now) if (reading.state.stack is None) == fresh]
        if rows:
            which = torch.tensor(rows, device=part.read.device)
            known = Covariates(*(None if values is None else values[which] for values in part.known))
            y, _ = model.forecast(part.read[which], horizon, _joined([now[row] for row in rows]), known)
            for row, answer in zip(rows, y, strict=True):
                answers[row] = answer
    return torch.stack(answers), units


def _joined(readings: list[Reading]) -> PatchState:
    """States of which all have read something, or none."""
    states = [reading.state for reading in readings]
    scales = Scale(*(torch.cat(parts) for parts in zip(*(state.scale for state in states), strict=True)))
    return PatchState(scales, None if states[0].stack is None else join([state.stack for state in states]))
