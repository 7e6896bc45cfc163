"""The vanilla recurrent layer: a dense product of the input, then the recurrence."""

import torch
from torch import Tensor, nn

from exgate import ops
from exgate.layers.linear import Linear
from exgate.layers.norm import per_head
from exgate.ops import RNNState


class RNNLayer(nn.Module):
    r"""The simple recurrent network (Elman 1990): $h_t = \tanh(W x_t + b + R h_{t-1})$, recurrent per head.

    Args:
        dim: width of the input.
        hidden: cells, the width of the output; None is dim.
        heads: the recurrent weight is block-diagonal with one block per head; 1 is the classical dense one.
        bias: one bias per cell (torch.nn.RNN keeps two and adds them).
    Raises:
        ValueError: heads do not divide hidden.
    """

    def __init__(
        self, dim: int, *, hidden: int | None = None, heads: int = 1, bias: bool = True, device=None, dtype=None
    ) -> None:
        super().__init__()
        self.dim, self.hidden, self.heads = dim, dim if hidden is None else hidden, heads
        self.size = per_head("RNNLayer", "hidden", self.hidden, heads)
        self.input = Linear(dim, self.hidden, bias=bias, device=device, dtype=dtype)
        self.recurrent = nn.Parameter(torch.empty(heads, self.size, self.size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.RNN: everything uniform in ± 1 / sqrt(hidden)."""
        for weight in self.parameters():
            nn.init.uniform_(weight, -(self.hidden**-0.5), self.hidden**-0.5)

    def forward(
        self, x: Tensor, state: RNNState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, RNNState]:
        """x (B, T, dim), state h (B, heads, hidden/heads), reset (B, T) -> (B, T, hidden) and the state."""
        h, state = ops.rnn(self.input(x).unflatten(-1, (self.heads, self.size)), self.recurrent, state, reset=reset)
        return h.flatten(-2), state

    def extra_repr(self) -> str:
        return f"{self.dim}, hidden={self.hidden}, heads={self.heads}"
