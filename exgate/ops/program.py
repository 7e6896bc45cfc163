"""The programs of program.cpp: lists of instructions on memory that stays where it is, run by one call."""

from collections.abc import Sequence
from ctypes import Array, Structure, c_float, c_int64, c_void_p, sizeof
from enum import IntEnum
from math import prod

import torch
from torch import Tensor

from exgate.ops import native

Kind = IntEnum("Kind", "LINEAR EMBEDDING WIDEN NORM MAP MLSTM SLSTM LSTM CONV SSM", start=0)
Function = IntEnum(
    "Function", "COPY TANH SIGMOID SILU GELU RELU SQUARE EXP SOFTPLUS ADD SUBTRACT MULTIPLY DIVIDE", start=0
)  # fmt: skip
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # of the weights of a product
MOST_ROWS = 8  # beyond, a matrix product of PyTorch is faster than one that reads its weights once


class Instruction(Structure):
    """One instruction as program.cpp reads it: its kind, sizes, addresses, and eps."""

    _fields_ = (("kind", c_int64), ("n", c_int64 * 20), ("at", c_void_p * 12), ("eps", c_float), ("unused", c_float))


assert sizeof(Instruction) == 8 * 34


def instruction(kind: Kind, at: Sequence[Tensor | None], n: Sequence[int] = (), eps: float = 0.0) -> Instruction:
    """One instruction; whoever runs it keeps the tensors alive."""
    places = (None if tensor is None else tensor.data_ptr() for tensor in at)
    return Instruction(kind, (c_int64 * 20)(*n), (c_void_p * 12)(*places), eps)


def run(instructions: Array[Instruction] | Instruction) -> None:
    """Run a program, or a single instruction."""
    program = instructions if isinstance(instructions, Array) else (Instruction * 1)(instructions)
    native.call("exgate_run", program, len(program), native.threads())


def linear(out: Tensor, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Instruction:
    """out (G, R, O) = x (G, R, I) weight (G, O, I) scale (G, O) + bias (G, O); rows of x and out may lie anywhere."""
    _check_float(out, x)
    groups, rows, outs = out.shape
    strides = (*x.stride()[:2], *out.stride()[:2])
    n = (TYPES[weight.dtype], groups, rows, outs, x.shape[2], *strides)
    return instruction(Kind.LINEAR, (out, x, weight, scale, bias), n)


def embedding(out: Tensor, table: Tensor, tokens: Tensor) -> Instruction:
    """The rows of the table at tokens (int64), in the table's type."""
    return instruction(Kind.EMBEDDING, (out, table, tokens), (tokens.numel(), table.shape[1] * table.element_size()))


def widen(out: Tensor, x: Tensor) -> Instruction:
    """out = x, from bfloat16 to float32, both without gaps."""
    return instruction(Kind.WIDEN, (out, x), (x.numel(),))


def norm(
    out: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float, *, mean: bool
) -> Instruction:
    """Each part of the given shape divided by its root mean square, after its mean is subtracted or not."""
    _check_float(out, x)
    size = prod(shape)
    return instruction(Kind.NORM, (out, x, weight, bias), (x.numel() // size, size, mean), eps)


def elementwise(function: Function, out: Tensor, a: Tensor, b: Tensor | None = None) -> Instruction:
    """out = function(a, b), broadcast to the shape of out, any strides.

    Raises:
        ValueError: another type than float32, or more than four dimensions, those that follow each other joined.
    """
    b = a if b is None else b
    _check_float(out, a, b)
    operands = [tensor.expand(out.shape).stride() for tensor in (out, a, b)]
    dims = [dim for dim in zip(out.shape, *operands, strict=True) if dim[0] != 1]
    joined = dims[:1]
    for size, *strides in dims[1:]:
        before, *outer = joined[-1]
        if all(wide == narrow * size for wide, narrow in zip(outer, strides, strict=True)):
            joined[-1] = (before * size, *strides)
        else:
            joined.append((size, *strides))
    if len(joined) > 4 or prod(out.shape) == 0:
        raise ValueError("an operation on more than four dimensions, or on nothing")
    joined = [(1, 0, 0, 0)] * (4 - len(joined)) + joined
    n = (function, *(number for column in zip(*joined, strict=True) for number in column))
    return instruction(Kind.MAP, (out, a, b), n)


def _check_float(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"an operand is {tensor.dtype}, not float32")
