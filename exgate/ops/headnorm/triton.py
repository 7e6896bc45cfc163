"""The norm of each head on a GPU: one kernel each way (`triton_kernels`), statistics and sums in float32."""

from typing import Any

import torch
from torch import Tensor

from exgate.ops import gpu, native

WIDEST = 8192  # a head is one tile


def refuses(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float, rms: bool, offset: bool) -> str | None:
    if weight.shape[-1] > WIDEST:
        return f"V={weight.shape[-1]} is more than {WIDEST}"
    return gpu.refuses(x, weight, gate)


def run(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float, rms: bool, offset: bool) -> Tensor:
    y = torch.ops.exgate.headnorm_triton(x, weight, gate, eps, rms, offset)
    return y if weight.dim() == 1 else y.flatten(-2)


def tile(size: int) -> tuple[int, int, int]:
    """Rows, columns and warps of a tile: 16 numbers per thread."""
    columns = gpu.power_of_two(size)
    rows = max(1, 1024 // columns)
    return rows, columns, rows * columns // 512


def most(heads: int, warps: int, processors: int) -> int:
    """Programs of backward for each head: 20 warps for each processor, which is what their registers leave room for."""
    return max(1, 20 // warps * processors // heads)


def _constants(x: Tensor, weight: Tensor, gate: Tensor | None, rms: bool, offset: bool) -> dict[str, Any]:
    heads, size = weight.numel() // weight.shape[-1], weight.shape[-1]
    rows, columns, warps = tile(size)
    flags = {"RMS": rms, "OFFSET": offset, "GATED": gate is not None}
    return {"H": heads, "V": size, **flags, "ROWS": rows, "COLUMNS": columns, "warps": warps}


def _kind(x: Tensor, gate: Tensor | None) -> torch.dtype:
    return x.dtype if gate is None else torch.promote_types(x.dtype, gate.dtype)


@torch.library.custom_op("exgate::headnorm_triton", mutates_args=())
def _forward(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float, rms: bool, offset: bool) -> Tensor:
    """y in the shape of x."""
    from exgate.ops.headnorm import triton_kernels

    x, weight, gate = native.contiguous(x, weight, gate)
    y = torch.empty_like(x, dtype=_kind(x, gate))
    constants, count = _constants(x, weight, gate, rms, offset), x.numel() // weight.numel()
    if count:
        grid = -(-count // constants["ROWS"]), constants["H"]
        gpu.launch(triton_kernels.forward, grid, x, weight, gate, y, count, eps, **constants)
    return y


@torch.library.custom_op("exgate::headnorm_triton_backward", mutates_args=())
def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, gate: Tensor | None, eps: float, rms: bool, offset: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and gate, the last one empty where there is none."""
    from exgate.ops.headnorm import triton_kernels

    dy, x, weight, gate = native.contiguous(dy, x, weight, gate)
    dx, dgate = torch.empty_like(x), x.new_empty(0) if gate is None else torch.empty_like(gate)
    constants, count = _constants(x, weight, gate, rms, offset), x.numel() // weight.numel()
    tiles = -(-count // constants["ROWS"])
    programs = min(tiles, most(constants["H"], constants["warps"], gpu.target(x.device).processors))
    dweight = x.new_empty((programs, *weight.shape), dtype=torch.float32)
    if count:
        arguments = (dy, x, weight, gate, dx, dweight, dgate, count, programs, -(-tiles // programs), eps)
        gpu.launch(triton_kernels.backward, (programs, constants["H"]), *arguments, **constants)
    return dx, dweight.sum(0).to(weight.dtype), dgate


@_forward.register_fake
def _(x, weight, gate, eps, rms, offset):
    return torch.empty_like(x, dtype=_kind(x, gate), memory_format=torch.contiguous_format)


@_backward.register_fake
def _(dy, x, weight, gate, eps, rms, offset):
    parts = x, weight, x.new_empty(0) if gate is None else gate
    return tuple(torch.empty_like(part, memory_format=torch.contiguous_format) for part in parts)


def _save(ctx, inputs, output):
    *tensors, ctx.eps, ctx.rms, ctx.offset = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, dy):
    saved, options = ctx.saved_tensors, (ctx.eps, ctx.rms, ctx.offset)  # once: recomputation unpacks them anew
    dx, dweight, dgate = torch.ops.exgate.headnorm_triton_backward(dy, *saved, *options)
    return dx, dweight, None if saved[2] is None else dgate, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)
