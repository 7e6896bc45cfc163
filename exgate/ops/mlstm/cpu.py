"""mLSTM on the vectors of the CPU: cpu.cpp as custom ops. States are float32 there, so float64 is refused."""

from ctypes import Structure, c_float, c_int64, c_void_p

import torch
from torch import Tensor

from exgate.ops import native
from exgate.ops.autograd import once
from exgate.ops.mlstm import step
from exgate.ops.mlstm.differentiate import gradient_tensors, register

CHUNK = 32  # steps: as few as keep the products' tiles full, since half of a chunk's scores are never needed
LARGEST = 256  # longer chunks are cut: the function is the same, and the scores stay in cache
SEGMENT = 128  # steps between the states that forward keeps for backward, which computes the others again


class _Strided(Structure):
    _fields_ = (("data", c_void_p), ("batch", c_int64), ("time", c_int64), ("head", c_int64))


class _Call(Structure):
    _fields_ = (
        *((name, _Strided) for name in ("q", "k", "v", "i", "f", "h", "dh")),
        *((name, c_void_p) for name in ("c", "n", "m", "reset")),
        *((name, c_void_p) for name in ("out", "c_last", "n_last", "m_last", "cs", "ns", "ms")),
        *((name, c_void_p) for name in ("dc_last", "dn_last", "dq", "dk", "dv", "di", "df", "dc", "dn")),
        *((name, c_int64) for name in ("B", "T", "H", "K", "V", "L", "segment")),
        *((name, c_int64) for name in ("half", "exponential", "normalize", "threads")),
        ("eps", c_float),
    )


def refuses(q, k, v, i, f, state, *options) -> str | None:
    return native.refuses(q, k, v, i, f, *(state or ()))


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size):
    if q.shape[1] == 1:  # a step needs no chunk
        return step.run(q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
    kind = q.dtype
    if kind != torch.bfloat16:
        q, k, v = q.float(), k.float(), v.float()
    c, n, m = (None, None, None) if state is None else state
    saves = native.saves(q, k, v, i, f, c, n)
    size = min(chunk_size or _chunk_size(q, v, state), LARGEST)
    options = (size, input_gate == "exp", normalize, eps, saves)
    h, c, n, m, *_ = torch.ops.exgate.mlstm_cpu(q, k, v, i.float(), f.float(), c, n, m, reset, *options)
    return h.to(kind), (c, n, m.detach())


def _chunk_size(q: Tensor, v: Tensor, state) -> int:
    """CHUNK; all steps where no state comes in and they are no more than the head's size (the mean of K and V).

    One chunk needs no states but the last: T (4 K + 3 V) operations a step against 12 K V (measured: equal at T = K).
    """
    steps, key, value = q.shape[1], q.shape[-1], v.shape[-1]
    most = min(LARGEST, max(CHUNK, 2 * key * value // (key + value)))
    return steps if state is None and steps <= most else CHUNK


def _strided(x: Tensor) -> _Strided:
    return _Strided(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _rows(x: Tensor) -> Tensor:
    """x with the numbers of a row side by side; the rows may lie anywhere."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _call(q, k, v, i, f, c, n, m, reset, size: int, exponential: bool, normalize: bool, eps: float, **more) -> _Call:
    """The arguments of both kernels. The caller keeps the tensors alive."""
    more = {name: _strided(x) if name in ("h", "dh") else _address(x) for name, x in more.items()}
    batch, steps, heads, key = q.shape
    return _Call(
        **{name: _strided(x) for name, x in (("q", q), ("k", k), ("v", v), ("i", i), ("f", f))},
        **{name: _address(x) for name, x in (("c", c), ("n", n), ("m", m), ("reset", reset))},
        **dict(zip("BTHKVL", (batch, steps, heads, key, v.shape[-1], size), strict=True)),
        segment=_segment(size),
        half=q.dtype == torch.bfloat16,
        exponential=exponential,
        normalize=normalize,
        threads=native.threads(),
        eps=eps,
        **more,
    )


def _segment(size: int) -> int:
    """Chunks between two states that are kept."""
    return max(1, SEGMENT // size)


def _kept(steps: int, size: int) -> int:
    """How many states are kept: one before each segment but the first."""
    return (steps - 1) // (size * _segment(size))


@torch.library.custom_op("exgate::mlstm_cpu", mutates_args=(), device_types="cpu")
def _forward(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor | None, n: Tensor | None, m: Tensor | None,
    reset: Tensor | None, size: int, exponential: bool, normalize: bool, eps: float, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h, the last state, and the states before every segment but the first, for backward."""
    q, k, v = (_rows(x) for x in (q, k, v))
    c, n, m, reset = native.contiguous(c, n, m, reset)
    h, last, kept = _outputs(q, v, size, saves)
    more = dict(zip(("c_last", "n_last", "m_last"), last, strict=True), out=h)
    if saves:
        more |= zip(("cs", "ns", "ms"), kept, strict=True)
    call = _call(q, k, v, i, f, c, n, m, reset, size, exponential, normalize, eps, **more)
    native.call("exgate_mlstm_forward", bytes(call))
    (c, n, m), (cs, ns, ms) = last, kept
    return h, c, n, m, cs, ns, ms


def _outputs(q: Tensor, v: Tensor, size: int, saves: bool):
    batch, steps, heads, key = q.shape
    h = torch.empty_like(v, memory_format=torch.contiguous_format)

    def states(*count: int) -> list[Tensor]:
        shapes = ((key, v.shape[-1]), (key,), ())
        return [q.new_empty((batch, heads, *count, *shape), dtype=torch.float32) for shape in shapes]

    return h, states(), states(_kept(steps, size) if saves else 0)


@once
@torch.library.custom_op("exgate::mlstm_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    dh: Tensor, dc_last: Tensor | None, dn_last: Tensor | None, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor,
    c: Tensor | None, n: Tensor | None, m: Tensor | None, reset: Tensor | None, h: Tensor, cs: Tensor, ns: Tensor,
    ms: Tensor,
    size: int, exponential: bool, normalize: bool, eps: float,
) -> list[Tensor]:  # fmt: skip
    q, k, v, h, dh = (_rows(x) for x in (q, k, v, h, dh))
    c, n, m, reset, dc_last, dn_last = native.contiguous(c, n, m, reset, dc_last, dn_last)
    found = gradient_tensors(q, k, v, i, f, c, n)
    more = dict(zip(("dq", "dk", "dv", "di", "df", "dc", "dn"), found, strict=False))
    more |= {"h": h, "dh": dh, "dc_last": dc_last, "dn_last": dn_last, "cs": cs, "ns": ns, "ms": ms}
    call = _call(q, k, v, i, f, c, n, m, reset, size, exponential, normalize, eps, **more)
    native.call("exgate_mlstm_backward", bytes(call))
    return found


@_forward.register_fake
def _(q, k, v, i, f, c, n, m, reset, size, exponential, normalize, eps, saves):
    h, last, kept = _outputs(q, v, size, saves)
    (c, n, m), (cs, ns, ms) = last, kept
    return h, c, n, m, cs, ns, ms


register(_forward, _backward)
