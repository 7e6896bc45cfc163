"""Linear maps with structure."""

import torch
from torch import Tensor, nn

from exgate.layers.init import small_
from exgate.layers.norm import per_head


class HeadwiseLinear(nn.Module):
    r"""A block-diagonal product: $y_{n,o} = \sum_i W_{n,o,i}\, x_{n,i}$, x cut into `blocks` equal parts.

    Args:
        dim: width of input and output.
        blocks: how many blocks; they divide dim. The weight is (blocks, out, in) with out = in = dim / blocks.
    Raises:
        ValueError: blocks do not divide dim.
    """

    def __init__(self, dim: int, blocks: int, *, bias: bool = False, device=None, dtype=None) -> None:
        super().__init__()
        self.dim, self.blocks = dim, blocks
        self.size = per_head("HeadwiseLinear", "dim", dim, blocks, "blocks")
        self.weight = nn.Parameter(torch.empty(blocks, self.size, self.size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        small_(self.weight, self.size)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        y = torch.einsum("...ni,noi->...no", x.unflatten(-1, (self.blocks, self.size)), self.weight).flatten(-2)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.dim}, blocks={self.blocks}, bias={self.bias is not None}"
