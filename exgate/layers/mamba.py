"""The layer of Mamba: a gated selective state space model."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate import ops
from exgate.layers.conv import CausalConv
from exgate.layers.linear import Linear
from exgate.layers.slstm import split_state
from exgate.ops import ConvState, SSMState


class MambaLayer(nn.Module):
    r"""Mamba's block without its norm and residual (Gu and Dao 2023, arXiv:2312.00752, section 3.4).

    $[a; z] = W_\mathrm{in} x,\ u = \mathrm{SiLU}(\mathrm{conv}(a)),\ [r; B; C] = W_x u,\
    \Delta = \mathrm{softplus}(W_{dt} r + b_{dt})$; the recurrence `exgate.ops.ssm` with $A = -\exp(A_{\log})$ and the
    skip D; then $y_\mathrm{out} = W_\mathrm{out}(y \odot \mathrm{SiLU}(z))$.

    Args:
        dim: width of input and output.
        state_size: N, states per channel.
        conv_kernel: taps of the convolution.
        inner_dim: channels; None is 2 dim.
        dt_rank: width of r; None is dim / 16, rounded up.
        bias: in `in_proj` and `out_proj`; the convolution and `dt_proj` have theirs in any case.
        chunk_size, blocks: steps per chunk (None: the op chooses); blocks in the model, for the initial `out_proj`.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_size: int = 16,
        conv_kernel: int = 4,
        inner_dim: int | None = None,
        dt_rank: int | None = None,
        bias: bool = False,
        chunk_size: int | None = None,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.state_size, self.chunk_size, self.blocks = dim, state_size, chunk_size, blocks
        self.inner_dim = inner = 2 * dim if inner_dim is None else inner_dim
        self.dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.in_proj = Linear(dim, 2 * inner, bias=bias, **where)
        self.conv = CausalConv(inner, conv_kernel, activation="silu", **where)
        self.x_proj = Linear(inner, self.dt_rank + 2 * state_size, bias=False, **where)
        self.dt_proj = Linear(self.dt_rank, inner, **where)
        self.A_log = nn.Parameter(torch.empty(inner, state_size, **where))
        self.D = nn.Parameter(torch.empty(inner, **where))
        self.out_proj = Linear(inner, dim, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As the authors: A is -1 ... -N in each channel, the first steps are log-uniform from 0.001 to 0.1."""
        self.conv.reset_parameters()
        for linear in (self.in_proj, self.x_proj, self.out_proj):
            linear.reset_parameters()
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        nn.init.ones_(self.D)
        with torch.no_grad():
            self.out_proj.weight /= math.sqrt(self.blocks)
            numbers = torch.arange(1, self.state_size + 1, dtype=torch.float64, device=self.A_log.device)
            self.A_log.copy_(numbers.log())
            delta = self.dt_proj.bias.uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
            self.dt_proj.bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # the inverse of softplus

    def forward(
        self, x: Tensor, state: tuple[ConvState, SSMState] | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[ConvState, SSMState]]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state (ConvState, SSMState)."""
        conv_state, cell_state = split_state("MambaLayer", state)
        u, z = self.in_proj(x).chunk(2, -1)
        u, conv_state = self.conv(u, conv_state, reset=reset)
        r, b, c = self.x_proj(u).split([self.dt_rank, self.state_size, self.state_size], -1)
        wide = torch.promote_types(u.dtype, torch.float32)  # a step of bfloat16 is too coarse for its exponential
        delta, a = F.softplus(self.dt_proj(r).to(wide)), -torch.exp(self.A_log.to(wide))
        y, cell_state = ops.ssm(u, delta, a, b, c, self.D, cell_state, reset=reset, chunk_size=self.chunk_size)
        return self.out_proj(y * F.silu(z)), (conv_state, cell_state)

    def extra_repr(self) -> str:
        return f"{self.dim}, state_size={self.state_size}, inner_dim={self.inner_dim}, dt_rank={self.dt_rank}"
