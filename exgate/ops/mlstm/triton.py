"""mLSTM on a GPU: the kernels of triton_forward.py and triton_backward.py as custom ops, and the choice of their tiles.

Backward needs the states before every chunk. They are kept in the type of the products where they are few beside the
inputs; else in float32 at every n-th chunk, and computed again from there. The length of a chunk and n are what a model
of the time says is fastest within that bound (`chunking`).
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exgate.ops import gpu, native
from exgate.ops.autograd import once
from exgate.ops.mlstm import reference
from exgate.ops.mlstm.differentiate import gradient_tensors, register

CHUNKS = (64, 128, 256, 512, 1024)
SHORTEST = 16  # a tile of a product has 16 rows at the least
KEPT = 0.25  # bytes of kept states, at the most, over those of q, k, v and h

# An H100 as published, derated to what good kernels reach; not measured yet.
PRODUCTS = {True: 4e14, False: 5e13}  # operations a second: in bfloat16, and in float32 as three products of TF32
BYTES = 2.5e12  # bytes a second of device memory
TURN = 2e-6  # seconds that a chunk takes in a walk over the chunks, however small it is
PROCESSORS = 132
TYPICAL = (64, 4096)  # batch times heads, and steps, where a program is compiled for all of them


class Chunking(NamedTuple):
    """size: steps per chunk. every: which chunks' states are kept, 1 for all of them."""

    size: int
    every: int


class Tiles(NamedTuple):
    """Constants and options of each kernel."""

    states: dict[str, Any]
    outputs: dict[str, Any]
    rows: dict[str, Any]
    state_gradients: dict[str, Any]
    keys: dict[str, Any]  # of dq and dk
    values: dict[str, Any]  # of dv


def refuses(q, k, v, i, f, state, *options) -> str | None:
    return gpu.refuses(q, k, v, i, f, *(state or ()))


def run(q, k, v, i, f, state, input_gate: str, normalize: bool, eps: float, reset: Tensor | None, chunk_size):
    c, n, m = (None, None, None) if state is None else state
    if q.shape[1] == 1:
        if native.saves(q, k, v, i, f, c, n):
            return reference.run(q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
        step = (*(x[:, 0] for x in (q, k, v, i, f)), c, n, m, reset)
        h, *last = torch.ops.exgate.mlstm_decode(*step, 0.0, input_gate == "exp", normalize, eps)
        return h[:, None], last
    batch, steps, heads, key = q.shape
    half, value = q.dtype == torch.bfloat16, v.shape[-1]
    if torch.compiler.is_compiling():  # one program for any batch and length
        size, every = fastest(*TYPICAL, key, value, half)
    else:
        size, every = chunking(batch * heads, steps, key, value, half)
    if chunk_size:
        size = min(gpu.power_of_two(chunk_size, SHORTEST), CHUNKS[-1])
    saves = native.saves(q, k, v, i, f, c, n)
    options = (size, every, input_gate == "exp", normalize, eps, saves)
    h, c, n, m, *_ = torch.ops.exgate.mlstm_triton(q, k, v, i.float(), f.float(), c, n, m, reset, *options)
    return h, (c, n, m.detach())


def fastest(sequences: int, steps: int, key: int, value: int, half: bool) -> Chunking:
    """The chunks that take the least time by the model, among those whose kept states stay within KEPT.

    `sequences` are batch times heads; `half`: the products are in bfloat16. Per step, a chunk of L steps costs
    12 K V + 4 L (K + V) operations forward and backward, and as many bytes as 6 K V / L numbers of states; a walk over
    the chunks takes TURN for each; states that are computed again cost another walk.
    """
    width = 2 if half else 4
    best, least = Chunking(CHUNKS[0], 1), float("inf")
    for size in CHUNKS:
        if size >= 2 * steps and size > CHUNKS[0]:
            break
        chunks, every = -(-steps // size), 1
        bound = KEPT * steps * 2 * (key + value) * width / (key * value)
        while _kept(chunks, every) * (width if every == 1 else 4) > bound and every < chunks:
            every *= 2
        again = 2 if every > 1 else 1
        products = (10 + 2 * again) * key * value + 4 * (size + 64) * (key + value)
        moved = (4 + 2 * again) * key * value * width / size
        programs = sequences * -(-key // 64) * -(-value // 64)
        walks = (1 + again) * chunks * TURN * max(1.0, programs / PROCESSORS)
        time = sequences * steps * (products / PRODUCTS[half] + moved / BYTES) + walks
        if time < least:
            best, least = Chunking(min(size, gpu.power_of_two(steps)), every), time
    return best


chunking = cache(fastest)


def _kept(chunks: int, every: int) -> int:
    """How many states are kept: before every `every`-th chunk but the first; where that is 1, all with the last."""
    return chunks + 1 if every == 1 else (chunks - 1) // every


@cache
def tiles(size: int, key: int, value: int, half: bool, target: gpu.Target) -> Tiles:
    """The tiles for chunks of `size` steps: the largest that spill no register (benchmarks/triton_resources.py)."""
    walk = {"BK": min(gpu.power_of_two(key), 64), "BV": min(gpu.power_of_two(value), 64 if half else 32), "warps": 4}
    inner = min(size, 64 if half else 32)
    product = _product(size, key, value, half, target)
    return Tiles(
        states={**walk, "BS": inner},
        outputs=product,
        rows={"BV": min(gpu.power_of_two(value), 128), "BT": min(size, 32), "warps": 4},
        state_gradients={**walk, "BT": inner},
        keys=_product(size, value, key, half, target),
        values=product,
    )


def _product(size: int, contracted: int, made: int, half: bool, target: gpu.Target) -> dict[str, int]:
    """Two products in a row: BR by BC steps over BI columns at a time, then times BC steps by BW columns."""
    contracted, made = gpu.power_of_two(contracted), gpu.power_of_two(made)
    large = half and target.shared > 200_000  # Hopper's products take their operands from shared memory
    if not half:
        rows, columns, inner, outer = 64, 32, 32, 128
    elif large and min(contracted, made) <= 128:
        rows, columns, outer = 128, 64 if max(contracted, made) <= 64 else 32, 256
        inner = contracted if contracted <= 256 else 64
    else:
        rows, columns, inner, outer = 64, 64, 128 if large else 64, 128 if target.kind == "hip" else 256
    if half and not large and made <= 64:
        columns = 32
    tile = {"BI": min(contracted, inner), "BW": min(made, outer), "BR": min(size, rows), "BC": min(size, columns)}
    return {**tile, "warps": 8 if tile["BR"] * tile["BW"] > 64 * 64 else 4}


class _Call:
    """What every kernel of a call takes: sizes, gate numbers of all steps, which documents there are."""

    def __init__(self, q, k, v, i, f, reset, size: int, exponential: bool) -> None:
        self.q, self.k, self.v, self.i, self.f = native.contiguous(q, k, v, i, f)
        self.batch, self.steps, self.heads, self.key = q.shape
        self.value, self.size = v.shape[-1], size
        self.sequences, self.chunks = self.batch * self.heads, -(-self.steps // size)
        self.tiles = tiles(size, self.key, self.value, q.dtype == torch.bfloat16, gpu.target(q.device))
        self.reset = None if reset is None else reset.contiguous().view(torch.uint8)
        self.documents = None if reset is None else reset.cumsum(1, dtype=torch.int32)
        self.gate = {"EXPONENTIAL": exponential, "RESETS": reset is not None}
        self.sizes = {"H": self.heads, "K": self.key, "V": self.value, "L": size}
        self.products = gpu.products(q.dtype, q.device)
        self.root = {"ROOT": self.key**-0.5}
        self.b, self.a, self.peak = (self.numbers() for _ in range(3))
        self.rows = (self.b, self.a, self.peak, self.documents)

    def numbers(self, *front: int) -> Tensor:
        """A float32 number for every step of every head."""
        return self.q.new_empty(*front, self.batch, self.heads, self.steps, dtype=torch.float32)

    def states(self, count: int, kind: torch.dtype | None = None) -> Tensor:
        """Memory for the states C at so many places of each sequence, in `width` unless told otherwise."""
        shape = (self.batch, self.heads, count, self.key, self.value)
        return self.q.new_empty(shape, dtype=self.width if kind is None else kind)

    @property
    def width(self) -> torch.dtype:
        """The type of the states that the products take: that of q, but float16 overflows."""
        return torch.bfloat16 if self.q.dtype == torch.bfloat16 else torch.float32

    def gates(self, kernels) -> None:
        """Fill b, a and peak: what products need to know of the gates of each step."""
        gpu.launch(
            kernels.gates, (self.sequences * self.chunks,), self.i, self.f, self.reset, self.b, self.a, self.peak,
            self.steps, self.sequences, H=self.heads, L=self.size, **self.gate, warps=max(1, min(4, self.size // 128)),
        )  # fmt: skip

    def walk(self, kernels, first, last, cs, ns, ms, kept, every: int, *, again: bool = False) -> None:
        """States before every chunk and after the last, into cs, ns, ms; of these cs alone where they come `again`."""
        chosen = self.tiles.states
        segments = -(-self.chunks // every) if again else 1
        tiled = -(-self.key // chosen["BK"]) * -(-self.value // chosen["BV"])
        gpu.launch(
            kernels.states, (self.sequences, tiled, segments), self.k, self.v, *self.rows, *first, cs, ns, ms, kept,
            *last, self.steps, self.chunks, every, **self.sizes, **self.gate, STARTS=first[0] is not None,
            KEEPS=kept is not None and not again, AGAIN=again, **self.products, **chosen,
        )  # fmt: skip


@torch.library.custom_op("exgate::mlstm_triton", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, c: Tensor | None, n: Tensor | None, m: Tensor | None,
    reset: Tensor | None, size: int, every: int, exponential: bool, normalize: bool, eps: float, saves: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """h, the last state, and for backward the states that are kept, n and m of every chunk, and n . q of every step."""
    from exgate.ops.mlstm import triton_forward as kernels

    call = _Call(q, k, v, i, f, reset, size, exponential)
    found = h, *last, kept, ns, ms, nq = _outputs(q, v, size, every, saves)
    first = native.contiguous(c, n, m)
    sparse = saves and every > 1
    cs = kept if saves and every == 1 else call.states(call.chunks + 1)
    if not saves:
        ns, ms = ns.new_empty(call.sequences, call.chunks + 1, call.key), ms.new_empty(call.sequences, call.chunks + 1)
    call.gates(kernels)
    call.walk(kernels, first, last, cs, ns, ms, kept if sparse else None, every if sparse else call.chunks)
    chosen = call.tiles.outputs
    grid = (call.sequences * -(-call.steps // chosen["BR"]), -(-call.value // chosen["BW"]))
    gpu.launch(
        kernels.outputs, grid, call.q, call.k, call.v, *call.rows, cs, ns, ms, h, nq, call.steps, call.chunks,
        call.sequences, eps, **call.sizes, **call.gate, NORMALIZE=normalize, SAVES=saves,
        STATES=c is not None or call.chunks > 1, **call.products, **call.root, **chosen,
    )  # fmt: skip
    return found


def _outputs(q: Tensor, v: Tensor, size: int, every: int, saves: bool):
    batch, steps, heads, key = q.shape
    chunks, value = -(-steps // size), v.shape[-1]

    def number(*shape: int, kind: torch.dtype = torch.float32) -> Tensor:
        return q.new_empty(shape, dtype=kind)

    h = torch.empty_like(v, memory_format=torch.contiguous_format)
    last = (number(batch, heads, key, value), number(batch, heads, key), number(batch, heads))
    if not saves:
        return h, *last, number(0), number(0), number(0), number(0)
    kind = torch.bfloat16 if every == 1 and q.dtype == torch.bfloat16 else torch.float32
    kept = number(batch, heads, _kept(chunks, every), key, value, kind=kind)
    ns, ms = number(batch, heads, chunks + 1, key), number(batch, heads, chunks + 1)
    return h, *last, kept, ns, ms, number(batch, heads, steps)


@once
@torch.library.custom_op("exgate::mlstm_triton_backward", mutates_args=())
def _backward(
    dh: Tensor, dc_last: Tensor | None, dn_last: Tensor | None, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor,
    c: Tensor | None, n: Tensor | None, m: Tensor | None, reset: Tensor | None, h: Tensor, kept: Tensor, ns: Tensor,
    ms: Tensor, nq: Tensor, size: int, every: int, exponential: bool, normalize: bool, eps: float,
) -> list[Tensor]:  # fmt: skip
    from exgate.ops.mlstm import triton_backward as kernels
    from exgate.ops.mlstm import triton_forward as forward

    call = _Call(q, k, v, i, f, reset, size, exponential)
    dh, c, n, m, dc_last, dn_last = native.contiguous(dh, c, n, m, dc_last, dn_last)
    found = dq, dk, dv, di, df, *first = gradient_tensors(q, k, v, i, f, c, n)
    call.gates(forward)
    cs = kept
    if every > 1:
        cs = call.states(call.chunks + 1)
        call.walk(forward, (c, n, m), (None,) * 3, cs, ns, ms, kept, every, again=True)
    r, dnq = call.numbers(), call.numbers()
    numbers = (call.b, call.peak, call.documents, ms)
    of_rows, sizes = call.tiles.rows, {name: call.sizes[name] for name in "HVL"}
    gpu.launch(
        kernels.rows, (call.sequences * -(-call.steps // of_rows["BT"]),), dh, h, nq, *numbers, r, dnq, call.steps,
        call.chunks, call.sequences, eps, **sizes, **call.gate, NORMALIZE=normalize, **of_rows,
    )  # fmt: skip
    states = (cs, ns, dc_last, dn_last)
    dcs, dns, edges = _walk_back(call, kernels, dh, numbers, r, dnq, states, first or (None, None))
    _tiles_back(call, kernels, (dh, r, dnq), (cs, ns, ms), (dcs, dns), (dq, dk, dv), (di, df), edges, c is not None)
    return found


def _walk_back(call: _Call, kernels, dh, numbers, r, dnq, states, first):
    """Gradients of the states after every chunk, and what they add to the gates; those of the first state into `first`.

    With one chunk that nothing comes before or after there are none: None.
    """
    cs, ns, dc_last, dn_last = states
    if call.chunks == 1 and first[0] is None and dc_last is None:
        return None, None, None
    chosen = call.tiles.state_gradients
    tiled = -(-call.key // chosen["BK"]) * -(-call.value // chosen["BV"])
    dcs = call.states(call.chunks)
    dns, edges = (dh.new_empty(call.sequences, call.chunks, n, dtype=torch.float32) for n in (call.key, tiled))
    gpu.launch(
        kernels.state_gradients, (call.sequences, tiled), call.q, dh, *numbers, r, dnq, cs, ns, dc_last, dn_last, dcs,
        dns, edges, *first, call.steps, call.chunks, **call.sizes, **call.gate, ENDS=dc_last is not None,
        STARTS=first[0] is not None, **call.products, **call.root, **chosen,
    )  # fmt: skip
    return dcs, dns, edges


def _tiles_back(call: _Call, kernels, rows, states, after, gradients, gates, edges, starts: bool) -> None:
    """Gradients of q, k, v into `gradients` and of the raw gates into `gates`."""
    (dh, r, dnq), (cs, ns, ms), (dcs, dns) = rows, states, after
    (dq, dk, dv), parts = gradients, -(-call.key // call.tiles.keys["BW"])
    kdk, qdq = call.numbers(parts), call.numbers(parts)
    options = {"H": call.heads, "L": call.size, **call.gate, **call.products, **call.root}
    of_keys, of_values = call.tiles.keys, call.tiles.values
    behind, ahead = starts or call.chunks > 1, dcs is not None
    q, k, v = call.q, call.k, call.v
    for name, (x, y, z), own, state, vector, out, products, outer, chosen in (
        ("q", (dh, v, k), q, cs, ns, dq, qdq, behind, of_keys),
        ("k", (v, dh, q), k, dcs, dns, dk, kdk, ahead, of_keys),
        ("v", (k, q, dh), None, dcs, None, dv, None, ahead, of_values),
    ):
        grid = (call.sequences * -(-call.steps // chosen["BR"]), -(-out.shape[-1] // chosen["BW"]))
        gpu.launch(
            kernels.gradients, grid, x, y, z, own, *call.rows, ms, r, dnq, state, vector, out, products, call.steps,
            call.chunks, call.sequences, OF=name, INNER=x.shape[-1], WIDTH=out.shape[-1], OUTER=outer, **options,
            **chosen,
        )  # fmt: skip
    tiled = 0 if edges is None else edges.shape[-1]
    gpu.launch(
        kernels.gate_gradients, (call.sequences * call.chunks,), call.i, call.f, call.reset, kdk, qdq, edges, *gates,
        call.steps, call.chunks, call.sequences, H=call.heads, L=call.size, PARTS=parts, TILES=tiled,
        WIDE=gpu.power_of_two(tiled, 1), **call.gate, warps=max(1, min(4, call.size // 128)),
    )  # fmt: skip


@_forward.register_fake
def _(q, k, v, i, f, c, n, m, reset, size, every, exponential, normalize, eps, saves):
    return _outputs(q, v, size, every, saves)


register(_forward, _backward)
