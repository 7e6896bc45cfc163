"""The LSTM layer: a dense product of the input, then the recurrence."""

import torch
from torch import Tensor, nn

from exgate import ops
from exgate.layers.init import ramp_
from exgate.layers.linear import Linear
from exgate.layers.norm import per_head
from exgate.ops import LSTMState


class LSTMLayer(nn.Module):
    r"""LSTM (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000), recurrent per head.

    $c_t = \sigma(\tilde f_t) c_{t-1} + \sigma(\tilde i_t) \tanh(\tilde z_t),\ h_t = \sigma(\tilde o_t) \tanh(c_t)$ with
    $\tilde g_t = W_g x_t + b_g + R_g h_{t-1}$ for each gate, in the order i f z o (z is torch's g).

    Args:
        dim: width of the input.
        hidden: cells, the width of the output; None is dim.
        heads: the recurrent weight is block-diagonal with one block per head; 1 is the classical dense one.
        peepholes: gates see the cell (Gers and Schmidhuber 2000): i and f the last c, o the new one.
        bias: one bias per gate and cell (torch.nn.LSTM keeps two and adds them).
        forget_bias: added to the forget gate's initial bias: a number, or (low, high), evenly spaced over the cells.
    Raises:
        ValueError: heads do not divide hidden.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        heads: int = 1,
        peepholes: bool = False,
        bias: bool = True,
        forget_bias: float | tuple[float, float] = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.dim, self.hidden, self.heads = dim, dim if hidden is None else hidden, heads
        self.forget_bias = forget_bias if isinstance(forget_bias, tuple) else (forget_bias, forget_bias)
        self.size = per_head("LSTMLayer", "hidden", self.hidden, heads)
        self.input = Linear(dim, 4 * self.hidden, bias=bias, device=device, dtype=dtype)
        self.recurrent = nn.Parameter(torch.empty(4, heads, self.size, self.size, device=device, dtype=dtype))
        self.peephole = (
            nn.Parameter(torch.empty(3, heads, self.size, device=device, dtype=dtype)) if peepholes else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.LSTM: everything uniform in ± 1 / sqrt(hidden)."""
        for weight in self.parameters():
            nn.init.uniform_(weight, -(self.hidden**-0.5), self.hidden**-0.5)
        if self.input.bias is not None:
            with torch.no_grad():
                forget = self.input.bias[self.hidden : 2 * self.hidden]
                forget += ramp_(torch.empty_like(forget), *self.forget_bias)

    def forward(
        self, x: Tensor, state: LSTMState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, LSTMState]:
        """x (B, T, dim), state h, c (B, heads, hidden/heads) each, reset (B, T) -> (B, T, hidden) and the state."""
        gates = self.input(x).unflatten(-1, (4, self.heads, self.size))
        h, state = ops.lstm(gates, self.recurrent, state, peephole=self.peephole, reset=reset)
        return h.flatten(-2), state

    def extra_repr(self) -> str:
        return f"{self.dim}, hidden={self.hidden}, heads={self.heads}, peepholes={self.peephole is not None}"
