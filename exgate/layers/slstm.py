"""The sLSTM layers: that of the 2024 paper, and a plain one with a dense input product."""

from typing import Any

import torch
from torch import Tensor, nn

from exgate import ops
from exgate.layers.conv import CausalConv
from exgate.layers.init import power_law_, small_
from exgate.layers.linear import HeadwiseLinear, Linear
from exgate.layers.norm import HeadNorm, per_head
from exgate.ops import SLSTMState, decode
from exgate.ops.state import State


class SLSTMLayer(nn.Module):
    r"""The sLSTM layer of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517, appendix, figure 10), without its FFN.

    $u = \mathrm{SiLU}(\mathrm{conv}(x))$; $\tilde i, \tilde f$ from $u$ and $\tilde z, \tilde o$ from $x$ by
    products that are block-diagonal over the heads; the recurrence `exgate.ops.slstm`; a norm over each head.
    No output product.

    Args:
        dim: width of input and output; dim / heads cells per head.
        heads: they divide dim.
        conv_kernel: taps of the convolution; 0 leaves out convolution and SiLU.
        forget_gate: "sigmoid" (as published) or "exp".
        recurrent_init: "zeros", or "uniform" in ± 1 / sqrt(dim), which the paper's formal-language tasks start from
            (the xlstm package's "standard").
        norm_eps, norm_offset: of the norm over heads (see `HeadNorm`).
        block, blocks: place of this layer among the model's blocks, for the forget gate's initial bias.
    Raises:
        ValueError: heads do not divide dim, or there is no such recurrent_init.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        conv_kernel: int = 4,
        forget_gate: str = "sigmoid",
        recurrent_init: str = "zeros",
        norm_eps: float = 1e-5,
        norm_offset: bool = True,
        block: int = 0,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        if recurrent_init not in ("zeros", "uniform"):
            raise ValueError(f"SLSTMLayer: recurrent_init is {recurrent_init!r}; it should be 'zeros' or 'uniform'.")
        self.dim, self.heads, self.forget_gate = dim, heads, forget_gate
        self.recurrent_init, self.block, self.blocks = recurrent_init, block, blocks
        size = per_head("SLSTMLayer", "dim", dim, heads)
        self.conv = CausalConv(dim, conv_kernel, activation="silu", **where) if conv_kernel else None
        self.igate = HeadwiseLinear(dim, heads, **where)
        self.fgate = HeadwiseLinear(dim, heads, **where)
        self.zgate = HeadwiseLinear(dim, heads, **where)
        self.ogate = HeadwiseLinear(dim, heads, **where)
        self.recurrent = nn.Parameter(torch.empty(4, heads, size, size, **where))
        self.bias = nn.Parameter(torch.empty(4, heads, size, **where))
        self.norm = HeadNorm(dim, heads, eps=norm_eps, offset=norm_offset, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gate products small, recurrent weights as `recurrent_init` says, forget bias from +5 to -7 in each head."""
        if self.conv is not None:
            self.conv.reset_parameters()
        for gate in (self.igate, self.fgate, self.zgate, self.ogate):
            small_(gate.weight, self.dim)
        _reset_recurrence(self.recurrent, self.bias, self.block, self.blocks)
        if self.recurrent_init == "uniform":
            nn.init.uniform_(self.recurrent, -(self.dim**-0.5), self.dim**-0.5)
        self.norm.reset_parameters()

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state.

        The state is (ConvState, SLSTMState), or SLSTMState alone when there is no convolution.
        """
        conv_state, cell_state = (None, state) if self.conv is None else split_state("SLSTMLayer", state)
        u, conv_state = (x, None) if self.conv is None else self.conv(x, conv_state, reset=reset)
        gates = torch.stack([self.igate(u), self.fgate(u), self.zgate(x), self.ogate(x)], 2)
        gates = gates.unflatten(-1, (self.heads, -1)) + self.bias.to(gates.dtype)  # under autocast they stay narrow
        cell, options = (gates, self.recurrent, cell_state), {"forget_gate": self.forget_gate, "reset": reset}
        step = decode.slstm(*cell, self.norm.options, **options)
        if step is None:
            h, cell_state = ops.slstm(*cell, **options)
            step = self.norm(h), cell_state
        y, cell_state = step
        return y.to(x.dtype), cell_state if self.conv is None else (conv_state, cell_state)

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, forget_gate={self.forget_gate}"


class DenseSLSTMLayer(nn.Module):
    r"""sLSTM with a dense input product (Beck et al. 2024, arXiv:2405.04517, section 2.2).

    $\tilde g_t = W_g x_t + b_g + R_g h_{t-1}$ for each gate in the order i f z o, R block-diagonal over the heads.
    Its output is h itself: no convolution, no norm. What `exgate.SLSTM` is made of.

    Args:
        dim: width of the input.
        hidden: cells, the width of the output; None is dim.
        heads: they divide hidden.
        forget_gate: "sigmoid" or "exp".
        bias: one bias per gate and cell.
    Raises:
        ValueError: heads do not divide hidden.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        heads: int = 4,
        forget_gate: str = "sigmoid",
        bias: bool = True,
        block: int = 0,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.dim, self.hidden, self.heads = dim, dim if hidden is None else hidden, heads
        self.forget_gate, self.block, self.blocks = forget_gate, block, blocks
        self.size = per_head("DenseSLSTMLayer", "hidden", self.hidden, heads)
        self.input = Linear(dim, 4 * self.hidden, bias=bias, device=device, dtype=dtype)
        self.recurrent = nn.Parameter(torch.empty(4, heads, self.size, self.size, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As `SLSTMLayer`: input product small, recurrent weights 0, forget bias from +5 to -7 in each head."""
        small_(self.input.weight, self.dim)
        bias = None if self.input.bias is None else self.input.bias.view(4, self.heads, self.size)
        _reset_recurrence(self.recurrent, bias, self.block, self.blocks)

    def forward(
        self, x: Tensor, state: SLSTMState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, SLSTMState]:
        """x (B, T, dim), state (B, heads, hidden/heads) each, reset (B, T) -> (B, T, hidden) and the state."""
        gates = self.input(x).unflatten(-1, (4, self.heads, self.size))
        h, state = ops.slstm(gates, self.recurrent, state, forget_gate=self.forget_gate, reset=reset)
        return h.flatten(-2), state

    def extra_repr(self) -> str:
        return f"{self.dim}, hidden={self.hidden}, heads={self.heads}, forget_gate={self.forget_gate}"


def split_state(layer: str, state) -> tuple[Any, Any]:
    """(convolution's state, cell's state) of a layer that has both; (None, None) to start empty."""
    if state is None:
        return None, None
    if not isinstance(state, tuple) or len(state) != 2:
        raise ValueError(
            f"{layer}: state is {type(state).__name__}; "
            "it should be (ConvState, state of the cell), as the layer returns it."
        )
    return state


@torch.no_grad()
def _reset_recurrence(recurrent: Tensor, bias: Tensor | None, block: int, blocks: int) -> None:
    nn.init.zeros_(recurrent)
    if bias is not None:
        nn.init.zeros_(bias)
        power_law_(bias[1], block, blocks)
