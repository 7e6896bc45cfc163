"""The attention layer of Llama-style Transformers."""

from typing import Any

from torch import Tensor, nn

from exgate import ops
from exgate.layers.init import small_, wang_
from exgate.layers.linear import Linear
from exgate.layers.norm import per_head
from exgate.ops import AttentionState


class AttentionLayer(nn.Module):
    r"""Causal multi-head attention with rotary positions, as in Llama (Touvron et al. 2023, arXiv:2302.13971).

    q, k and v are products of x; the op `exgate.ops.attention` per head; $y = W_\mathrm{out} h$.

    Args:
        dim: width of input and output.
        heads: they divide dim, and dim / heads is even.
        kv_heads: heads of keys and values, which divide heads (Ainslie et al. 2023, arXiv:2305.13245); None is heads.
        rope_theta: base of the rotary positions; 0 leaves them out.
        window: a step sees the newest `window` steps, itself among them; None sees all of its document.
        bias: in q, k, v and out.
        blocks: residual branches in the model, for the size of the initial `out.weight`.
    Raises:
        ValueError: heads do not divide dim, or kv_heads do not divide heads.
    Cost: the state grows with every step by 2 dim kv_heads / heads numbers, unless there is a window.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        rope_theta: float = 10000.0,
        window: int | None = None,
        bias: bool = False,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.dim, self.heads, self.blocks = dim, heads, blocks
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.rope_theta, self.window = rope_theta, window
        self.size = per_head("AttentionLayer", "dim", dim, heads)
        per_head("AttentionLayer", "heads", heads, self.kv_heads, "kv_heads")
        self.q = Linear(dim, dim, bias=bias, **where)
        self.k = Linear(dim, self.kv_heads * self.size, bias=bias, **where)
        self.v = Linear(dim, self.kv_heads * self.size, bias=bias, **where)
        self.out = Linear(dim, dim, bias=bias, **where)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small at the input, and at the output the smaller the deeper the model (see `exgate.layers.init`)."""
        for linear in (self.q, self.k, self.v):
            small_(linear.weight, self.dim)
        wang_(self.out.weight, self.dim, self.blocks)
        for linear in (self.q, self.k, self.v, self.out):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, state: AttentionState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """x (B, T, dim), reset (B, T) -> (B, T, dim) and the state, T steps longer."""
        q, k, v = (linear(x).unflatten(-1, (-1, self.size)) for linear in (self.q, self.k, self.v))
        h, state = ops.attention(q, k, v, state, rope_theta=self.rope_theta, window=self.window, reset=reset)
        return self.out(h.flatten(-2)), state

    def extra_repr(self) -> str:
        return (
            f"{self.dim}, heads={self.heads}, kv_heads={self.kv_heads}, rope_theta={self.rope_theta}, "
            f"window={self.window}"
        )
