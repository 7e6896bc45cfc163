"""Additive attention: which steps of a source a decoder looks at."""

import torch
from torch import Tensor, nn

from exgate.layers.init import small_
from exgate.layers.linear import Linear


class AdditiveAttention(nn.Module):
    r"""Additive attention (Bahdanau, Cho and Bengio 2015, arXiv:1409.0473, section 3.1 and appendix A.1.2).

    $e_{ij} = v^\top \tanh(W s_{i-1} + U h_j),\quad \alpha_{ij} = \mathrm{softmax}_j(e_{ij}),\quad
    c_i = \sum_j \alpha_{ij} h_j$. The keys $U h_j$ do not depend on i: `keys` computes them, once per source.

    Args:
        query_dim: width of s.
        value_dim: width of h, and of the context c.
        dim: width of the sum inside the tanh.
    """

    def __init__(self, query_dim: int, value_dim: int, dim: int, *, device=None, dtype=None) -> None:
        super().__init__()
        self.query_dim, self.value_dim, self.dim = query_dim, value_dim, dim
        self.query = Linear(query_dim, dim, bias=False, device=device, dtype=dtype)
        self.key = Linear(value_dim, dim, bias=False, device=device, dtype=dtype)
        self.score = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All small and normal (the paper's v = 0 gives W and U no gradient at the first step)."""
        small_(self.query.weight, self.query_dim)
        small_(self.key.weight, self.value_dim)
        small_(self.score, self.dim)

    def keys(self, values: Tensor) -> Tensor:
        """h (B, S, value_dim) -> U h (B, S, dim)."""
        return self.key(values)

    def forward(
        self, query: Tensor, values: Tensor, keys: Tensor | None = None, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Contexts and weights of T queries at once (a decoder that needs c_i for s_i has T = 1).

        Args:
            query: s (B, T, query_dim).
            values: h (B, S, value_dim).
            keys: what `keys` gave for these values; None computes them.
            mask: (B, S) bool, True where there is a source step; at least one in each row.
        Returns:
            contexts (B, T, value_dim) in the type of values, and weights (B, T, S), 0 outside the mask, which sum to
            one over S; in float32 (float64 for float64 inputs).
        Raises:
            ValueError: shapes disagree, or the mask is not bool.
        Cost: O(T S dim) time, and as much memory for the backward pass.
        """
        widths = (*query.shape[2:], *values.shape[2:])
        if query.dim() != 3 or len(query) != len(values) or widths != (self.query_dim, self.value_dim):
            raise ValueError(
                f"AdditiveAttention: query has shape {tuple(query.shape)} and values {tuple(values.shape)}; they "
                f"should be (B, T, {self.query_dim}) and (B, S, {self.value_dim}) with the same B."
            )
        if keys is not None and keys.shape != (*values.shape[:2], self.dim):
            raise ValueError(
                f"AdditiveAttention: keys have shape {tuple(keys.shape)}; they should be what `keys` gives for these "
                f"values, (B, S, dim) = {(*values.shape[:2], self.dim)}."
            )
        if mask is not None and (mask.shape != values.shape[:2] or mask.dtype != torch.bool):
            raise ValueError(
                f"AdditiveAttention: mask has shape {tuple(mask.shape)} and type {mask.dtype}; "
                f"it should be (B, S) = {tuple(values.shape[:2])}, bool."
            )
        keys = self.keys(values) if keys is None else keys
        energy = torch.tanh(self.query(query)[:, :, None] + keys[:, None]) @ self.score
        energy = energy.to(torch.promote_types(energy.dtype, torch.float32))
        if mask is not None:
            energy = energy.masked_fill(~mask[:, None], -torch.inf)
        weights = energy.softmax(-1)
        return weights.to(values.dtype) @ values, weights

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
