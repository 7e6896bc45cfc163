"""Linear maps: dense ones on the faster of PyTorch's libraries, and block-diagonal ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate import ops
from exgate.layers.init import normal_, small_
from exgate.layers.norm import per_head
from exgate.ops.dispatch import transformed


class Linear(nn.Linear):
    """`nn.Linear` by `product`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return product(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, by oneDNN where PyTorch would take another library: what `torch.nn.LSTM` runs on.

    On some processors the other library's float32 product takes 1.2 times as long. Short products (decoding), small
    ones, other types and devices, autocast, transforms and compiled or exported programs are left to `F.linear`.
    """
    if _onednn_takes(x, weight):
        return _Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)


SHORT, SMALL = 64, 2**17  # rows and numbers of weights from which oneDNN is not slower


def _onednn_takes(x: Tensor, weight: Tensor) -> bool:
    # The quick questions first: a decoding step asks at every product. Those of x only where nothing is traced: its
    # rows may be a symbol, and asking whether they are few would make a program for few rows alone.
    if weight.numel() < SMALL or torch.compiler.is_compiling():
        return False
    if x.numel() < SHORT * x.shape[-1] or transformed():
        return False
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in (x, weight))
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # PyTorch's own, without a promise
    )


class _Product(torch.autograd.Function):
    """x W^T + b. Its gradient for x is such a product again, so it can be differentiated any number of times."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def vmap(info, dims, x: Tensor, weight: Tensor, bias: Tensor | None):
        return torch.vmap(nn.functional.linear, dims)(x, weight, bias), 0

    @staticmethod
    def backward(ctx, dy: Tensor):
        x, weight = ctx.saved_tensors
        rows = dy.flatten(0, -2)
        dx = _Product.apply(dy, weight.t(), None) if ctx.needs_input_grad[0] else None
        dweight = rows.t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return dx, dweight, rows.sum(0) if ctx.needs_input_grad[2] else None


def joint(parts: tuple[Tensor, ...], *linears: nn.Linear) -> tuple[Tensor, ...]:
    """What each of the linears, which have a bias, makes of the parts (..., T, in_p) laid side by side.

    Long sequences are not laid so in memory: each part meets its own columns of all the weights, in one product. A
    linear that something else has taken the place of (`CompactLinear`, an adapter) is called as it is.
    """
    plain = all(type(linear) is Linear and type(linear.weight) is nn.Parameter for linear in linears)
    if not plain or parts[0].shape[-2] == 1:
        whole = torch.cat(parts, -1)
        return tuple(linear(whole) for linear in linears)
    columns = torch.cat([linear.weight for linear in linears]).split([part.shape[-1] for part in parts], 1)
    y = torch.cat([linear.bias for linear in linears])
    for part, weight in zip(parts, columns, strict=True):
        y = y + F.linear(part, weight)
    return y.split([linear.out_features for linear in linears], -1)


class Embedding(nn.Embedding):
    """`nn.Embedding`, which draws no numbers on the meta device: there that takes longer than drawing real ones."""

    def reset_parameters(self) -> None:
        """Normal with deviation 1."""
        normal_(self.weight)


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
        y = ops.headwise(x, self.weight)
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
