"""A single step of mLSTM without gradients: one pass over the memory, by the instruction of program.cpp."""

import torch
from torch import Tensor

from exgate.ops import native, program
from exgate.ops.mlstm import reference


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size):
    if native.saves(q, k, v, i, f, *(state or ())):
        return reference.run(q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
    state = reference.start(state, q, v)
    if reset is not None:
        state = (s.masked_fill(reset.view(-1, *[1] * (s.dim() - 1)), 0.0) for s in state)
    step = (x[:, 0].float() for x in (q, k, v, i, f))
    h, c, n, m = torch.ops.exgate.mlstm_step(*step, *state, input_gate == "exp", normalize, eps)
    return h[:, None].to(v.dtype), (c, n, m)


@torch.library.custom_op("exgate::mlstm_step", mutates_args=(), device_types="cpu")
def _step(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor, n: Tensor, m: Tensor,
    exponential: bool, normalize: bool, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k (B, H, K), v (B, H, V), i, f (B, H) and the state -> h and the next state."""
    q, k, v, i, f, c, n, m = native.contiguous(q, k, v, i, f, c, n, m)
    out = torch.empty_like(v), torch.empty_like(c), torch.empty_like(n), torch.empty_like(m)
    program.run(lower(out, q, k, v, i, f, c, n, m, exponential, normalize, eps))
    return out


def lower(out, q, k, v, i, f, c, n, m, exponential: bool, normalize: bool, eps: float) -> program.Instruction:
    """The instruction of a step whose operands lie without gaps, but for q, k and v: their heads may lie anywhere."""
    strides = (number for x in (q, k, v) for number in x.stride()[:2])
    sizes = (*q.shape, v.shape[-1], exponential, normalize, *strides)
    return program.instruction(program.Kind.MLSTM, (*out, q, k, v, i, f, c, n, m), sizes, eps)


@_step.register_fake
def _(q, k, v, i, f, c, n, m, exponential, normalize, eps):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (v, c, n, m))
