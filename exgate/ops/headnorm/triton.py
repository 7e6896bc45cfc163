"""The norm of each head on a GPU: one kernel each way (`triton_kernels`), statistics and sums in float32."""

from typing import Any

import torch
from torch import Tensor

from exgate.ops import gpu, native
from exgate.ops.autograd import once
from exgate.ops.headnorm.eager import kind

WIDEST = 8192  # a head is one tile


def refuses(
    x: Tensor, weight: Tensor, gate: Tensor | None, u: Tensor | None, factor: Tensor | None, *options
) -> str | None:
    if weight.shape[-1] > WIDEST:
        return f"V={weight.shape[-1]} is more than {WIDEST}"
    return gpu.refuses(x, weight, gate, u, factor)


def run(x: Tensor, weight: Tensor, *others) -> Tensor:
    y = torch.ops.exgate.headnorm_triton(x, weight, *others)
    return y if weight.dim() == 1 else y.flatten(-2)


def tile(size: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a tile: 16 numbers per thread."""
    columns = gpu.power_of_two(size)
    rows = max(1, 1024 // columns)
    return rows, columns, rows * columns // 512


def most(heads: int, warps: int, processors: int, skips: bool) -> int:
    """Programs of backward for each head: as many warps for each processor as their registers leave room for."""
    return max(1, (12 if skips else 20) // warps * processors // heads)


def _constants(weight: Tensor, rms: bool, offset: bool, silu: bool) -> dict[str, Any]:
    heads, size = weight.numel() // weight.shape[-1], weight.shape[-1]
    rows, columns, warps = tile(size)
    flags = {"RMS": rms, "OFFSET": offset, "SILU": silu}
    return {"H": heads, "V": size, **flags, "ROWS": rows, "COLUMNS": columns, "warps": warps}


@torch.library.custom_op("exgate::headnorm_triton", mutates_args=())
def _forward(
    x: Tensor, weight: Tensor, gate: Tensor | None, u: Tensor | None, factor: Tensor | None,
    eps: float, rms: bool, offset: bool, silu: bool,
) -> Tensor:  # fmt: skip
    """y in the shape of x."""
    from exgate.ops.headnorm import triton_kernels

    x, *others = native.contiguous(x, weight, gate, u, factor)
    y = torch.empty_like(x, dtype=kind(x, gate, u))
    constants, count = _constants(weight, rms, offset, silu), x.numel() // weight.numel()
    if count:
        grid = -(-count // constants["ROWS"]), constants["H"]
        gpu.launch(triton_kernels.forward, grid, x, *others, y, count, eps, **constants)
    return y


@once
@torch.library.custom_op("exgate::headnorm_triton_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, gate: Tensor | None, u: Tensor | None, factor: Tensor | None,
    eps: float, rms: bool, offset: bool, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight, gate, u and factor, empty where there is no such tensor."""
    from exgate.ops.headnorm import triton_kernels

    given = dy, x, weight, gate, u, factor = native.contiguous(dy, x, weight, gate, u, factor)
    dx, dweight, dgate, du, dfactor = _gradients_of(x, weight, gate, u, factor)
    whole = dweight, dfactor
    constants, count = _constants(weight, rms, offset, silu), x.numel() // weight.numel()
    tiles = -(-count // constants["ROWS"])
    room = most(constants["H"], constants["warps"], gpu.target(x.device).processors, u is not None)
    programs = min(tiles, room)
    dweight, dfactor = (x.new_empty((programs, *part.shape), dtype=torch.float32) for part in whole)
    if count:
        arguments = (*given, dx, dgate, du, dweight, dfactor, count, programs, -(-tiles // programs), eps)
        gpu.launch(triton_kernels.backward, (programs, constants["H"]), *arguments, **constants)
    dweight, dfactor = (total.sum(0).to(part.dtype) for total, part in zip((dweight, dfactor), whole, strict=True))
    return dx, dweight, dgate, du, dfactor


def _gradients_of(x: Tensor, *others: Tensor | None) -> list[Tensor]:
    """Memory for the gradient of each tensor, for none where there is no tensor."""
    return [x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape) for tensor in (x, *others)]


@_forward.register_fake
def _(x, weight, gate, u, factor, eps, rms, offset, silu):
    return torch.empty_like(x, dtype=kind(x, gate, u), memory_format=torch.contiguous_format)


@_backward.register_fake
def _(dy, x, weight, gate, u, factor, eps, rms, offset, silu):
    return tuple(_gradients_of(x, weight, gate, u, factor))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _gradients(ctx, dy):
    saved = ctx.saved_tensors  # once: recomputation unpacks them anew
    found = torch.ops.exgate.headnorm_triton_backward(dy, *saved, *ctx.options)
    return *(None if part is None else d for part, d in zip(saved, found, strict=True)), None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
