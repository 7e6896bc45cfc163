"""Linear maps with structure."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate import ops
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


class CompactLinear(nn.Module):
    r"""$y_o = s_o \sum_i W_{oi} x_i + b_o$ with W in bfloat16 or int8 (see `exgate.ops.linear`); it does not train.

    Args:
        weight: (out, in), what is to be stored.
        bias: (out,) or None.
        stored: "bf16", or "int8": whole numbers from -127 to 127, each row scaled by its own largest number.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, stored: str) -> None:
        super().__init__()
        weight, scale = weight.detach(), None
        if stored == "int8":
            scale = weight.abs().amax(1).float() / 127
            weight = torch.cat([_whole(*part) for part in zip(weight.split(4096), scale.split(4096), strict=True)])
        self.stored = stored
        self.register_buffer("weight", weight if stored == "int8" else weight.bfloat16())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def dense(self) -> Tensor:
        """The weight that is meant, (out, in) in float32."""
        return self.weight.float() if self.scale is None else self.weight * self.scale[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in x's type."""
        return ops.linear(x, self.weight, self.scale, self.bias)

    def extra_repr(self) -> str:
        outs, ins = self.weight.shape
        return f"{ins}, {outs}, bias={self.bias is not None}, stored={self.stored}"


def _whole(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest whole multiples of each row's scale; a row of zeros stays one."""
    return (weight.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)


class CompactEmbedding(nn.Module):
    """Rows of a table in bfloat16, given out in float32; it does not train."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().bfloat16())

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) -> (..., dim)."""
        return F.embedding(tokens, self.weight).float()

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))
