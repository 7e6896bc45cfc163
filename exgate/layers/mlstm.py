"""The mLSTM layers: that of the 2024 paper, and that of xLSTM 7B. Two classes over one op."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate import ops
from exgate.layers.conv import CausalConv
from exgate.layers.init import normal_, ramp_, small_, wang_
from exgate.layers.linear import HeadwiseLinear, Linear, joint
from exgate.layers.norm import HeadNorm, per_head
from exgate.layers.slstm import split_state
from exgate.ops import MLSTMState, decode
from exgate.ops.state import State


class MLSTMLayer(nn.Module):
    r"""The mLSTM layer of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517, appendix, figure 11).

    $[a; z] = W_\mathrm{up} x$, $u = \mathrm{SiLU}(\mathrm{conv}(a))$; q and k from u, v from a by block-diagonal
    products; gates from [q; k; v]; the recurrence `exgate.ops.mlstm`; then
    $y = W_\mathrm{down}((\mathrm{norm}(h) + s \odot u) \odot \mathrm{SiLU}(z))$ with a learnable skip s.

    Args:
        dim: width of input and output.
        heads: they divide the inner width, dim * proj_factor rounded up to a multiple of `multiple`.
        conv_kernel: taps of the convolution; 0 leaves it out (u = SiLU(a), the ablation of the paper's table 8).
        proj_factor, multiple: inner width over dim, and what it is rounded up to a multiple of.
        qkv_block: width of the blocks in the products for q, k, v (nothing to do with heads).
        bias: in `up`, `q`, `k`, `v`, `down`; convolution and gates have theirs in any case.
        eps: added to the cell's denominator.
        norm_eps: of the norm over heads, whose weight is kept as its distance from one.
        input_gate: "exp" (as published) or "sigmoid".
        chunk_size, blocks: steps per chunk (None: the op chooses); blocks in the model, for initial sizes.
    Raises:
        ValueError: heads or qkv_block do not divide the inner width.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        conv_kernel: int = 4,
        proj_factor: float = 2.0,
        multiple: int = 64,
        qkv_block: int = 4,
        bias: bool = False,
        eps: float = 1e-6,
        norm_eps: float = 1e-5,
        input_gate: str = "exp",
        chunk_size: int | None = None,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.heads, self.blocks = dim, heads, blocks
        self.eps, self.input_gate, self.chunk_size = eps, input_gate, chunk_size
        self.inner = inner = multiple * math.ceil(proj_factor * dim / multiple)
        per_head("MLSTMLayer", "inner width", inner, heads)
        per_head("MLSTMLayer", "inner width", inner, qkv_block, "qkv_block")
        self.up = Linear(dim, 2 * inner, bias=bias, **where)
        self.conv = CausalConv(inner, conv_kernel, activation="silu", **where) if conv_kernel else None
        self.q, self.k, self.v = (HeadwiseLinear(inner, inner // qkv_block, bias=bias, **where) for _ in range(3))
        self.igate = Linear(3 * inner, heads, **where)
        self.fgate = Linear(3 * inner, heads, **where)
        self.norm = HeadNorm(inner, heads, eps=norm_eps, offset=True, **where)
        self.skip = nn.Parameter(torch.empty(inner, **where))
        self.down = Linear(inner, dim, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gates start as constants: i around 0, f from 3 to 6 over the heads; `down` shrinks with the model's depth."""
        if self.conv is not None:
            self.conv.reset_parameters()
        self.norm.reset_parameters()
        nn.init.ones_(self.skip)
        wang_(self.down.weight, self.dim, self.blocks)
        for linear in (self.up, self.q, self.k, self.v):
            small_(linear.weight, self.dim)
        for linear in (self.up, self.q, self.k, self.v, self.down):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        normal_(self.igate.bias, std=0.1)
        ramp_(self.fgate.bias)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state.

        The state is (ConvState, MLSTMState), or MLSTMState alone when there is no convolution.
        """
        conv_state, cell_state = (None, state) if self.conv is None else split_state("MLSTMLayer", state)
        a, z = self.up(x).chunk(2, -1)
        u, conv_state = (F.silu(a), None) if self.conv is None else self.conv(a, conv_state, reset=reset)
        qkv = self.q(u), self.k(u), self.v(a)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in qkv)
        i, f = joint(qkv, self.igate, self.fgate)
        cell = q, k, v, i, f, cell_state
        options: dict[str, Any] = {"input_gate": self.input_gate, "eps": self.eps, "reset": reset}
        after: dict[str, Any] = {"gate": z, "skip": (u, self.skip), "activation": "silu"}
        step = decode.mlstm(*cell, self.norm.options | after, **options)
        if step is None:
            h, cell_state = ops.mlstm(*cell, chunk_size=self.chunk_size, **options)
            step = self.norm(h, **after), cell_state
        y, cell_state = step
        return self.down(y), cell_state if self.conv is None else (conv_state, cell_state)

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, inner={self.inner}, input_gate={self.input_gate}"


class MLSTM7BLayer(nn.Module):
    r"""The mLSTM layer of xLSTM 7B (Beck et al. 2025, arXiv:2503.13427, section 3).

    q, k, v and the output gate o are products of x; $\tilde i, \tilde f = c \tanh((W x + b)/c)$ with the cap c; the
    recurrence `exgate.ops.mlstm`; $y = W_\mathrm{out}(\sigma(o) \odot \mathrm{norm}(h))$. No convolution, no skip.

    Args:
        dim: width of input and output.
        heads: they divide qk_dim and v_dim.
        qk_dim, v_dim: widths of all queries (keys) and of all values together; None is dim / 2 and dim.
        gate_soft_cap: c above; 0 caps nothing.
        input_gate: "exp" (as published) or "sigmoid".
        eps: added to the cell's denominator.
        norm_eps: of the norm over heads (with mean, plain weight).
        bias: in q, k, v, ogate and out; igate and fgate have theirs in any case.
        chunk_size: steps per chunk of the recurrence; None lets the op choose.
        blocks: blocks in the model, for the size of the initial `out.weight`.
    Raises:
        ValueError: heads do not divide qk_dim or v_dim.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        qk_dim: int | None = None,
        v_dim: int | None = None,
        gate_soft_cap: float = 15.0,
        input_gate: str = "exp",
        eps: float = 1e-6,
        norm_eps: float = 1e-6,
        bias: bool = False,
        chunk_size: int | None = None,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.heads, self.blocks = dim, heads, blocks
        self.eps, self.gate_soft_cap, self.input_gate, self.chunk_size = eps, gate_soft_cap, input_gate, chunk_size
        qk_dim, v_dim = dim // 2 if qk_dim is None else qk_dim, dim if v_dim is None else v_dim
        per_head("MLSTM7BLayer", "qk_dim", qk_dim, heads)
        per_head("MLSTM7BLayer", "v_dim", v_dim, heads)
        self.q = Linear(dim, qk_dim, bias=bias, **where)
        self.k = Linear(dim, qk_dim, bias=bias, **where)
        self.v = Linear(dim, v_dim, bias=bias, **where)
        self.igate = Linear(dim, heads, **where)
        self.fgate = Linear(dim, heads, **where)
        self.ogate = Linear(dim, v_dim, bias=bias, **where)
        self.norm = HeadNorm(v_dim, heads, eps=norm_eps, **where)
        self.out = Linear(v_dim, dim, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gates start as constants: i at -10 (closed), f from 3 to 6 over the heads, o half open."""
        self.norm.reset_parameters()
        for linear in (self.q, self.k, self.v):
            small_(linear.weight, self.dim)
        wang_(self.out.weight, self.dim, self.blocks)
        for linear in (self.q, self.k, self.v, self.ogate, self.out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
        for linear in (self.igate, self.fgate, self.ogate):
            nn.init.zeros_(linear.weight)
        nn.init.constant_(self.igate.bias, -10.0)
        ramp_(self.fgate.bias)

    def forward(
        self, x: Tensor, state: MLSTMState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, MLSTMState]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state."""
        q, k, v = (linear(x).unflatten(-1, (self.heads, -1)) for linear in (self.q, self.k, self.v))
        i, f, o = self.igate(x), self.fgate(x), self.ogate(x)
        options: dict[str, Any] = {"input_gate": self.input_gate, "eps": self.eps, "reset": reset}
        step = decode.mlstm(q, k, v, i, f, state, self.norm.options | {"gate": o}, cap=self.gate_soft_cap, **options)
        if step is None:
            h, state = ops.mlstm(q, k, v, self._cap(i), self._cap(f), state, chunk_size=self.chunk_size, **options)
            step = self.norm(h, gate=o), state
        y, state = step
        return self.out(y), state

    def _cap(self, gate: Tensor) -> Tensor:
        if not self.gate_soft_cap:
            return gate
        gate = gate.to(torch.promote_types(gate.dtype, torch.float32))
        return self.gate_soft_cap * torch.tanh(gate / self.gate_soft_cap)

    def extra_repr(self) -> str:
        return f"{self.dim}, heads={self.heads}, gate_soft_cap={self.gate_soft_cap}, input_gate={self.input_gate}"
