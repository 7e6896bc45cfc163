"""LSTM on the CPU by the compiled kernel of cpu.cpp: one call for the whole sequence, forward or backward."""

from torch import Tensor

from exgate.ops import native, recurrence
from exgate.ops.lstm import step

recurrence.define("lstm", states=("h", "c"), gradients=2)


def refuses(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None) -> str | None:
    return native.refuses(x, r, *state, peephole, reset)


def run(x: Tensor, r: Tensor, state, peephole: Tensor | None, reset: Tensor | None):
    if x.shape[1] == 1:  # packing the weights costs more than the step
        h, last = step.run(x, r, state, peephole, reset)
        return h, type(state)(*last)
    h, last = recurrence.run("lstm", x, r, state, peephole, reset)
    return h, type(state)(*last)
