"""sLSTM on a GPU by the persistent kernels of triton_recurrence.py: one launch for all steps, each way."""

from torch import Tensor

from exgate.ops import gpu, persistent


def refuses(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None) -> str | None:
    return gpu.refuses(x, r, *state, reset)


def run(x: Tensor, r: Tensor, state, forget_gate: str, reset: Tensor | None):
    cell = "slstm-exp" if forget_gate == "exp" else "slstm"
    y, (*last, m) = persistent.run(cell, x, r, state, None, reset)
    return y, type(state)(*last, m.detach())
