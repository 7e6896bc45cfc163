"""Reading on: forecasts of series that grow, from kept states, at the cost of their new patches.

A model reads whole patches up to the present, so there is one state for each place that the present may have in a
patch: each new value moves one of P states by one patch, and P values later it is that state's turn again. A state
begins with the last L values, whose scale it has, and begins anew when it has read 2 L: so its forecast is that of
reading at least the last L values, and neither time nor memory grow with the history.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from exgate.forecast.windows import Series
from exgate.layers.series import scale
from exgate.models.patch_xlstm import PatchState, PatchXLSTM
from exgate.ops.state import join, select


@dataclass
class Reader:
    """The states of one row that grows. They have read all but the last patch before a present.

    What is ahead may be known better the next time, and the last patch is told of it: so it is read again.

    Args:
        states: of each place of the present in a patch: (state, first value read, values before the first not read).
    """

    states: dict[int, tuple[PatchState, int, int]] = field(default_factory=dict)

    def forget(self, count: int, patch: int) -> None:
        """The first `count` values of the row, whole patches, are no longer kept: count from what is left."""
        assert count % patch == 0
        self.states = {
            place: (state, begun - count, read - count) for place, (state, begun, read) in self.states.items()
        }


@torch.inference_mode()
def advance(model: PatchXLSTM, readers: list[Reader], series: Series, ends: list[int], steps: int) -> list[PatchState]:
    """Move the readers to a present of the first `ends` values of each row; their states there, but for a last patch.

    Args:
        steps: L, a multiple of the patch.
        series: with at least the last 2 L values of each row and their covariates; NaN in front of the first.
    """
    patch = model.config.patch
    moves: dict[int, list[int]] = {}
    for row, (reader, end) in enumerate(zip(readers, ends, strict=True)):
        _, begun, read = reader.states.get(end % patch, (None, -1, end))  # without one: as if it had read too far
        if not 0 <= end - patch - read <= steps or end - begun > 2 * steps:
            window = series.rows(np.array([[row, end]]), steps, 0).read
            reader.states[end % patch] = PatchState(scale(window, eps=0.0), None), end - steps, end - steps
        state, _, read = reader.states[end % patch]
        if end - patch > read:
            moves.setdefault((end - patch - read) * (-1 if state.stack is None else 1), []).append(row)
    for count, rows in moves.items():  # rows with as much to read are read together
        places = np.array([[row, ends[row] - patch] for row in rows])
        part = series.rows(places, abs(count), patch)
        before = [readers[row].states[ends[row] % patch][0] for row in rows]
        _, after = model(part.read, _joined(before), part.known)
        for place, row in enumerate(rows):
            begun = readers[row].states[ends[row] % patch][1]
            one = select(after, torch.tensor([place], device=part.read.device))
            readers[row].states[ends[row] % patch] = one, begun, ends[row] - patch
    return [reader.states[end % patch][0] for reader, end in zip(readers, ends, strict=True)]


@torch.inference_mode()
def forecast(
    model: PatchXLSTM, readers: list[Reader], series: Series, ends: list[int], horizon: int, steps: int
) -> Tensor:
    """Quantiles (S, H, C, Q) of the `horizon` steps after the first `ends` values of each row; the readers go on."""
    states = advance(model, readers, series, ends, steps)
    part = series.rows(np.stack([np.arange(len(ends)), ends], 1), model.config.patch, horizon)
    answers = torch.empty(0)
    for fresh in (False, True):
        rows = [row for row, state in enumerate(states) if (state.stack is None) == fresh]
        if rows:
            which = torch.tensor(rows, device=part.read.device)
            known = type(part.known)(*(None if values is None else values[which] for values in part.known))
            y, _ = model.forecast(part.read[which], horizon, _joined([states[row] for row in rows]), known)
            answers = answers if len(answers) else y.new_empty(len(states), *y.shape[1:])
            answers[which] = y
    return answers


def _joined(states: list[PatchState]) -> PatchState:
    """States of which all have read something, or none."""
    scales = type(states[0].scale)(
        *(torch.cat(parts) for parts in zip(*(state.scale for state in states), strict=True))
    )
    return PatchState(scales, None if states[0].stack is None else join([state.stack for state in states]))
