"""sLSTM on the CPU by the compiled kernel of cpu.cpp: one call for the whole sequence, forward or backward."""

from torch import Tensor

from exgate.ops import native, recurrence
from exgate.ops.slstm import step

recurrence.define("slstm", states=("h", "c", "n", "m"), gradients=3)


def refuses(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None) -> str | None:
    return native.refuses(x, r, *state, reset)


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    if x.shape[1] == 1:  # packing the weights costs more than the step
        h, last = step.run(x, r, state, forget_gate, reset)
        return h, type(state)(*last)
    h, (*last, m) = recurrence.run("slstm", x, r, state, None, reset, exp_f=forget_gate == "exp")
    return h, type(state)(*last, m.detach())
