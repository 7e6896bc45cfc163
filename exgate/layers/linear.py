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
        # Blocks of 4 are too small for a matrix product: four in a diagonal of zeros, as one of 16, take half the time.
        self.together = next(n for n in (4, 2, 1) if (self.size * n <= 16 and blocks % n == 0) or n == 1)
        self.weight = nn.Parameter(torch.empty(blocks, self.size, self.size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        small_(self.weight, self.size)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        weight = self.weight
        if self.together > 1:
            each = torch.eye(self.together, device=weight.device, dtype=weight.dtype)
            weight = torch.einsum("mcoi,cd->mcodi", weight.unflatten(0, (-1, self.together)), each)
            weight = weight.flatten(3, 4).flatten(1, 2)
        y = torch.einsum("...ni,noi->...no", x.unflatten(-1, weight.shape[::2]), weight).flatten(-2)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.dim}, blocks={self.blocks}, bias={self.bias is not None}"
