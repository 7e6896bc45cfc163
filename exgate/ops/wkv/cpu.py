"""WKV on the vectors of the CPU: cpu.cpp as custom ops, in float32. States go in and out as in eager.py."""

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.autograd import once
from exgate.ops.wkv import eager


def refuses(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state, reset: Tensor | None) -> str | None:
    return native.refuses(k, v, w, u, *state)


def run(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state, reset: Tensor | None):
    return eager.run(k, v, w, u, state, reset, op=torch.ops.exgate.wkv_cpu)


@torch.library.custom_op("exgate::wkv_cpu", mutates_args=(), device_types="cpu")
def _forward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, h: Tensor, l: Tensor, m: Tensor,
    reset: Tensor | None, chunk: int, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, the last h, l and m, and for backward h and l before each chunk, (B, chunks, D) each, flat."""
    inputs = native.contiguous(k, v, w, u, h, l, m, reset)
    out = eager.outputs(k, v, w, u, h, l, m, reset, chunk, saves)
    kept = out[4:] if saves else (None, None)
    native.call("exgate_wkv_forward", *inputs, *out[:4], *kept, *k.shape, chunk, native.threads())
    return out


@once
@torch.library.custom_op("exgate::wkv_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dy: Tensor, dh: Tensor, dl: Tensor,
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, last: Tensor, hs: Tensor, ls: Tensor, reset: Tensor | None, chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    inputs = native.contiguous(dy, dh, dl, k, v, w, u, last, hs, ls, reset)
    dk, dv, (dw, du, dh, dl) = (
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        (last.new_empty(last.shape) for _ in range(4)),
    )
    native.call("exgate_wkv_backward", *inputs, dk, dv, dw, du, dh, dl, *k.shape, chunk, native.threads())
    return dk, dv, dw.sum(0), du.sum(0), dh, dl


_forward.register_fake(eager.outputs)
_backward.register_fake(eager.gradients)
_forward.register_autograd(eager.backward_by("wkv_cpu_backward"), setup_context=eager.save)
