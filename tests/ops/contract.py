"""The laws that every op keeps on every backend, outputs and gradients alike.

A law takes an op's `Spec`, a backend and a type, and returns the worst error that it saw, relative to the largest
number of the tensor. `test_contract.py` holds each error against `TOLERANCE`; `python -m tests.ops.contract [BACKEND]`
prints the table.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import softplus

from exgate.ops import (
    AttentionState,
    ConvState,
    LSTMState,
    MLSTMState,
    RNNState,
    SLSTMState,
    SSMState,
    WKVState,
    attention,
    conv,
    gpu,
    lstm,
    mlstm,
    rnn,
    slstm,
    ssm,
    wkv,
)
from exgate.ops.attention import BACKENDS as ATTENTION
from exgate.ops.conv import BACKENDS as CONV
from exgate.ops.lstm import BACKENDS as LSTM
from exgate.ops.mlstm import BACKENDS as MLSTM
from exgate.ops.reset import from_lengths
from exgate.ops.rnn import BACKENDS as RNN
from exgate.ops.slstm import BACKENDS as SLSTM
from exgate.ops.ssm import BACKENDS as SSM
from exgate.ops.state import map_state
from exgate.ops.wkv import BACKENDS as WKV

FLOAT64, FLOAT32, BFLOAT16, FLOAT16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
PLACE = "cuda" if torch.cuda.is_available() else "cpu"  # where Triton's kernels run
TOLERANCE = {FLOAT64: 1e-11, FLOAT32: 1e-4, BFLOAT16: 4e-2, FLOAT16: 5e-3}


@dataclass(frozen=True)
class Spec:
    """One op with its options: how to make its inputs, call it, and look at its state without the gauge."""

    name: str
    sequences: Callable[[int, int, tuple, Callable], tuple[Tensor, ...]]  # batch, time, sizes, random -> (B, T, ...)
    weights: Callable[[tuple, Callable], tuple[Tensor, ...]]
    state: Callable[[int, tuple, Callable], tuple]
    function: Callable[..., tuple[Tensor, tuple]]  # (sequences, weights, state, reset, backend, **options)
    sizes: tuple[tuple[int, ...], ...]
    backends: tuple[str, ...]
    options: dict = field(default_factory=dict)
    lengths: tuple[int, int, int] = (63, 100, 257)  # of the longer sequences

    def call(self, sequences, weights, state, reset, backend: str, **options) -> tuple[Tensor, tuple]:
        """The op; on the GPU, if there is one, where the backend is made for it."""
        if backend == "triton" and torch.cuda.is_available():
            sequences, weights = tuple(x.cuda() for x in sequences), tuple(x.cuda() for x in weights)
            state, reset = map_state(Tensor.cuda, state), map_state(Tensor.cuda, reset)
            return map_state(Tensor.cpu, self.function(sequences, weights, state, reset, backend, **options))
        return self.function(sequences, weights, state, reset, backend, **options)


def ground(backend: str) -> AbstractContextManager:
    """Where a backend can be tested: without a GPU, Triton's kernels run in its interpreter."""
    here = backend != "triton" or torch.cuda.is_available() or not gpu.INSTALLED
    return nullcontext() if here else gpu.interpreter()


def _place(backend: str) -> str:
    return PLACE if backend == "triton" else "cpu"


def interpreted(backend: str) -> bool:
    return not isinstance(ground(backend), nullcontext)


def _mlstm(sequences, weights, state, reset, backend, **options):
    return mlstm(*sequences, state, reset=reset, backend=backend, **options)


def _slstm(sequences, weights, state, reset, backend, **options):
    return slstm(sequences[0], weights[0], state, reset=reset, backend=backend, **options)


def _lstm(sequences, weights, state, reset, backend, peepholes=False):
    peephole = weights[1] if peepholes else None
    return lstm(sequences[0], weights[0], state, peephole=peephole, reset=reset, backend=backend)


def _conv(sequences, weights, state, reset, backend, bias=True, **options):
    bias = weights[1] if bias else None
    return conv(sequences[0], weights[0], bias, state, reset=reset, backend=backend, **options)


def _attention(sequences, weights, state, reset, backend, **options):
    return attention(*sequences, state, reset=reset, backend=backend, **options)


def _attention_state(b, s, random):
    """Rows of which all of 5 keys count, some, none, and from a position beyond what is kept."""
    _, g, k, v = s
    return AttentionState(random(b, 5, g, k), random(b, 5, g, v), torch.tensor([3.0, 5.0, 0.0, 40.0])[:b])


def _rnn(sequences, weights, state, reset, backend):
    return rnn(sequences[0], weights[0], state, reset=reset, backend=backend)


def _wkv(sequences, weights, state, reset, backend):
    return wkv(*sequences, *weights, state, reset=reset, backend=backend)


def _ssm(sequences, weights, state, reset, backend, skips=True, **options):
    skip = weights[1] if skips else None
    return ssm(*sequences[:2], weights[0], *sequences[2:], skip, state, reset=reset, backend=backend, **options)


def _mlstm_sequences(b, t, s, random):
    (h, k, v) = s
    gates = random(b, t, h), random(b, t, h) + 1.0
    return random(b, t, h, k), random(b, t, h, k), random(b, t, h, v), *gates


def _ssm_sequences(b, t, s, random):
    (d, n) = s
    return random(b, t, d), softplus(random(b, t, d)), random(b, t, n), random(b, t, n)


def _positive(x: Tensor) -> Tensor:
    return x.abs() + 0.5


def _specs() -> Iterator[Spec]:
    for gate, normalize, eps in (("exp", True, 0.0), ("exp", True, 1e-6), ("exp", False, 0.0), ("sigmoid", True, 0.0)):
        yield Spec(
            f"mlstm-{gate}{'' if normalize else '-plain'}{'-eps' if eps else ''}",
            _mlstm_sequences,
            lambda s, random: (),
            lambda b, s, random: MLSTMState(random(b, *s), random(b, *s[:2]), random(b, s[0])),
            _mlstm,
            ((3, 4, 7), (1, 2, 2), (2, 16, 8)),
            tuple(MLSTM),
            {"input_gate": gate, "normalize": normalize, "eps": eps},
        )
    for gate in ("sigmoid", "exp"):
        yield Spec(
            f"slstm-{gate}",
            lambda b, t, s, random: (random(b, t, 4, *s),),
            lambda s, random: (random(4, *s, s[1]) * s[1] ** -0.5,),
            lambda b, s, random: SLSTMState(random(b, *s), random(b, *s), _positive(random(b, *s)), random(b, *s)),
            _slstm,
            ((3, 4), (1, 1), (2, 9)),
            tuple(SLSTM),
            {"forget_gate": gate},
        )
    for peepholes in (False, True):
        yield Spec(
            f"lstm{'-peepholes' if peepholes else ''}",
            lambda b, t, s, random: (random(b, t, 4, *s),),
            lambda s, random: (random(4, *s, s[1]) * s[1] ** -0.5, random(3, *s)),
            lambda b, s, random: LSTMState(random(b, *s), random(b, *s)),
            _lstm,
            ((3, 4), (1, 1), (2, 9)),
            tuple(LSTM),
            {"peepholes": peepholes},
        )
    for name, options in (("", {}), ("-no-bias", {"bias": False}), ("-silu", {"activation": "silu"})):
        yield Spec(
            f"conv{name}",
            lambda b, t, s, random: (random(b, t, s[0]),),
            lambda s, random: (random(*s), random(s[0])),
            lambda b, s, random: ConvState(random(b, s[1] - 1, s[0])),
            _conv,
            ((6, 4), (1, 1), (5, 2)),
            tuple(CONV),
            options,
        )
    for name, options in (("", {}), ("-window", {"window": 4}), ("-no-rope", {"rope_theta": 0.0})):
        yield Spec(
            f"attention{name}",
            lambda b, t, s, random: (random(b, t, s[0], s[2]), random(b, t, s[1], s[2]), random(b, t, s[1], s[3])),
            lambda s, random: (),
            _attention_state,
            _attention,
            ((3, 3, 4, 7), (1, 1, 2, 2), (4, 2, 8, 8)),
            tuple(ATTENTION),
            options,
        )

    yield Spec(
        "rnn",
        lambda b, t, s, random: (random(b, t, *s),),
        lambda s, random: (random(*s, s[1]) * s[1] ** -0.5,),
        lambda b, s, random: RNNState(random(b, *s)),
        _rnn,
        ((3, 4), (1, 1), (2, 9)),
        tuple(RNN),
    )
    yield Spec(
        "wkv",
        lambda b, t, s, random: (random(b, t, *s), random(b, t, *s)),
        lambda s, random: (_positive(random(*s)) - 0.4, random(*s)),
        lambda b, s, random: WKVState(random(b, *s), _positive(random(b, *s)), random(b, *s)),
        _wkv,
        ((5,), (1,), (16,)),
        tuple(WKV),
    )
    for skips in (True, False):
        yield Spec(
            f"ssm{'' if skips else '-no-skip'}",
            _ssm_sequences,
            lambda s, random: (-_positive(random(*s)), random(s[0])),
            lambda b, s, random: SSMState(random(b, *s)),
            _ssm,
            ((6, 4), (1, 1), (5, 19)),
            tuple(SSM),
            {"skips": skips},
        )


SPECS = {spec.name: spec for spec in _specs()}


@dataclass
class Case:
    """Inputs of one call, and the random directions its outputs are weighed by in the loss."""

    spec: Spec
    sequences: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    state: tuple | None
    reset: Tensor | None
    seed: int

    @classmethod
    def random(cls, spec: Spec, kind=FLOAT64, *, batch=2, time=9, size=0, state=True, reset=False, seed=0) -> "Case":
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=FLOAT64)

        sizes = spec.sizes[size]
        sequences = tuple(x.to(kind) for x in spec.sequences(batch, time, sizes, normal))
        weights = tuple(x.to(_state_kind(kind)) for x in spec.weights(sizes, normal))
        start = spec.state(batch, sizes, normal)
        start = (
            type(start)(*(x.to(weights[0].dtype if weights else _state_kind(kind)) for x in start)) if state else None
        )
        marks = torch.rand(batch, time, generator=generator) < 0.25 if reset else None
        return cls(spec, sequences, weights, start, marks, seed)

    def replace(self, **changes) -> "Case":
        return Case(**{**self.__dict__, **changes})

    def to(self, kind: torch.dtype) -> "Case":
        state = None if self.state is None else type(self.state)(*(x.to(kind) for x in self.state))
        sequences, weights = tuple(x.to(kind) for x in self.sequences), tuple(x.to(kind) for x in self.weights)
        return self.replace(sequences=sequences, weights=weights, state=state)

    def outputs(self, backend: str, **options) -> list[Tensor]:
        """h and the state without its gauge."""
        h, state = self.spec.call(
            self.sequences, self.weights, self.state, self.reset, backend, **self.spec.options, **options
        )
        return [h, *observe(state)]

    def run(self, backend: str, call: Callable | None = None, **options) -> list[Tensor]:
        """Outputs, and the gradients of a random weighing of all of them with respect to every input."""
        leaves = [x.detach().clone().requires_grad_() for x in (*self.sequences, *self.weights, *(self.state or ()))]
        count, more = len(self.sequences), len(self.weights)
        case = self.replace(
            sequences=tuple(leaves[:count]),
            weights=tuple(leaves[count : count + more]),
            state=None if self.state is None else type(self.state)(*leaves[count + more :]),
        )
        out = call(case) if call else case.outputs(backend, **options)
        return [x.detach() for x in out] + self.gradients(out, leaves)

    def gradients(self, out: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
        loss = sum((x.double() * weighing(x, n, self.seed)).sum() for n, x in enumerate(out))
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


def weighing(x: Tensor, number: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + 10 * seed + number)
    return torch.randn(x.shape, generator=generator, dtype=FLOAT64)


def _state_kind(kind: torch.dtype) -> torch.dtype:
    return FLOAT64 if kind == FLOAT64 else FLOAT32


def observe(state) -> list[Tensor]:
    """What of a state does not depend on the gauge m. An m of -inf goes with c = n = 0."""
    if isinstance(state, MLSTMState):
        scale = state.m.exp()
        return [state.c * scale[..., None, None], state.n * scale[..., None]]
    if isinstance(state, SLSTMState):  # n exp(m) grows without bound where f is exponential: look at its logarithm
        return [state.h, state.c / state.n, state.n.log() + state.m]
    if isinstance(state, AttentionState):  # what counts, with zeros in front of the shorter rows
        length = min(state.k.shape[1], int(state.position.max()))
        counts = torch.arange(length, 0, -1) <= state.position[:, None]
        ends = (x[:, x.shape[1] - length :] for x in (state.k, state.v))
        return [*(x.masked_fill(~counts[..., None, None], 0.0) for x in ends), state.position]
    if isinstance(state, WKVState):
        return [state.c / state.n, state.n.log() + state.m]
    return list(state)


def error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The worst difference over all tensors, each relative to its largest number; inf if anything is not finite."""
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a.numel() == 0:
            continue
        if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
            return float("inf")
        a, b = a.double(), b.double()
        worst = max(worst, ((a - b).abs().max() / (b.abs().max() + 1e-2)).item())
    return worst


def reference(case: Case) -> list[Tensor]:
    return case.to(FLOAT64).run("reference")


# --- the laws; each returns its worst error ---------------------------------------------------------------------------


def equals_reference(spec: Spec, backend: str, kind: torch.dtype) -> float:
    worst = 0.0
    for time, size, state, reset in (
        (1, 0, True, False),
        (1, 2, False, True),
        (spec.lengths[0], 1, False, False),
        (spec.lengths[1], 0, True, True),
    ):
        case = Case.random(spec, kind, time=time, size=size, state=state, reset=reset, seed=time)
        worst = max(worst, error(case.run(backend), reference(case)))
    case = Case.random(spec, kind, time=spec.lengths[2], size=2, batch=1, seed=5)
    return max(worst, error(case.run(backend), reference(case)))


def chunk_free(spec: Spec, backend: str, kind: torch.dtype) -> float:
    worst = 0.0
    for reset in (False, True):
        case = Case.random(spec, kind, time=37, reset=reset, seed=4)  # no |n.q| within bfloat16 of its floor, a kink
        wanted = reference(case)
        worst = max(worst, *(error(case.run(backend, chunk_size=size), wanted) for size in (1, 5, 16, 37, 50)))
    return worst


def _pieces(case: Case, backend: str, lengths: list[int]) -> list[Tensor]:
    state, outputs, start = case.state, [], 0
    for length in lengths:
        steps = slice(start, start + length)
        reset = None if case.reset is None else case.reset[:, steps]
        sequences = tuple(x[:, steps] for x in case.sequences)
        h, state = case.spec.call(sequences, case.weights, state, reset, backend, **case.spec.options)
        outputs.append(h)
        start += length
    return [torch.cat(outputs, 1), *observe(state)]


def splits_anywhere(spec: Spec, backend: str, kind: torch.dtype) -> float:
    worst, both = 0.0, product((False, True), repeat=2)
    for state, reset in ((False, False), (True, True)) if interpreted(backend) else both:
        case = Case.random(spec, kind, time=21, state=state, reset=reset, seed=7)
        wanted = case.run(backend)
        for lengths in ([20, 1], [1, 20], [5, 9, 7]):
            worst = max(worst, error(case.run(backend, lambda c, n=lengths: _pieces(c, backend, n)), wanted))
    return worst


def steps_equal_whole(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """With gradients, and without: a step that nothing follows may have a kernel of its own."""
    worst = 0.0
    for state, reset in ((False, False), (True, True)):
        case = Case.random(spec, kind, time=9, state=state, reset=reset, seed=11)
        worst = max(worst, error(case.run(backend, lambda c: _pieces(c, backend, [1] * 9)), case.run(backend)))
        worst = max(worst, error(_pieces(case, backend, [1] * 9), case.outputs(backend)))
    return worst


def batch_permutes(spec: Spec, backend: str, kind: torch.dtype) -> float:
    case = Case.random(spec, kind, batch=4, time=17, reset=True, seed=13)
    order = torch.tensor([2, 0, 3, 1])
    mixed = case.replace(
        sequences=tuple(x[order] for x in case.sequences),
        state=type(case.state)(*(x[order] for x in case.state)),
        reset=case.reset[order],
    )
    return error(mixed.outputs(backend), [x[order] for x in case.outputs(backend)])


def future_is_unseen(spec: Spec, backend: str, kind: torch.dtype) -> float:
    case = Case.random(spec, kind, time=19, reset=True, seed=17)
    worst = 0.0
    for t in (1, 8, 18):
        changed = case.replace(sequences=tuple(torch.cat([x[:, :t], x[:, t:] * -2 + 1], 1) for x in case.sequences))
        worst = max(worst, error([changed.outputs(backend)[0][:, :t]], [case.outputs(backend)[0][:, :t]]))
        leaves = [x.clone().requires_grad_() for x in case.sequences]
        past = case.replace(sequences=tuple(leaves)).outputs(backend)[0][:, :t]
        gradients = torch.autograd.grad(past.double().square().sum(), leaves, allow_unused=True)
        worst = max(worst, *(g[:, t:].abs().max().item() for g in gradients if g is not None))
    return worst


def extreme_gates_stay_finite(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """Finite, and in float64 still what the reference says: float32 cannot hold sums of 50 to a millionth."""
    worst = 0.0
    for scale in (50.0, -50.0):
        case = Case.random(spec, kind, time=40, state=False, seed=19)
        if spec.name.startswith("mlstm"):
            q, k, v, i, f = case.sequences
            signs = [torch.where(x > 0, scale, -scale) for x in (i, f)]
            case = case.replace(sequences=(q, k, v, *signs))
        elif spec.name.startswith("attention"):  # no gates, but products that let one key win
            q, k = (torch.where(x > 0, scale, -scale).to(kind) for x in case.sequences[:2])
            case = case.replace(sequences=(q, k, case.sequences[2]))
        elif spec.name.startswith("ssm"):  # steps of 50, and of nearly nothing
            u, delta, *others = case.sequences
            case = case.replace(sequences=(u, softplus(torch.where(delta > 0.7, scale, -scale)).to(kind), *others))
        elif not spec.name.startswith("conv"):
            first, *others = case.sequences
            case = case.replace(sequences=(torch.where(first > 0, scale, -scale).to(kind), *others))
        out = case.run(backend)
        if not all(bool(torch.isfinite(x).all()) for x in out):
            return float("inf")
        worst = max(worst, error(out[:1], reference(case)[:1])) if kind == FLOAT64 else worst
    return worst


def memory_may_be_anything(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """`torch.use_deterministic_algorithms` fills new memory with NaN: nothing of it may be read."""
    case = Case.random(spec, kind, time=23, reset=True, seed=23)
    wanted = case.run(backend)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        return error(case.run(backend), wanted)
    finally:
        torch.use_deterministic_algorithms(False)


def strides_do_not_matter(spec: Spec, backend: str, kind: torch.dtype) -> float:
    case = Case.random(spec, kind, time=15, reset=True, seed=29)

    def scattered(x: Tensor) -> Tensor:
        wide = torch.full((*x.shape, 2), float("nan"), dtype=x.dtype, device=_place(backend))
        wide[..., 0] = x
        return wide[..., 0]

    def call(c: Case) -> list[Tensor]:
        state = type(c.state)(*(scattered(x) for x in c.state))
        moved = c.replace(
            sequences=tuple(scattered(x) for x in c.sequences),
            weights=tuple(scattered(x) for x in c.weights),
            state=state,
        )
        return moved.outputs(backend)

    return error(case.run(backend, call), case.run(backend))


def reset_separates(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """One packed row is its documents one by one: the first goes on from the state, the others start empty."""
    lengths = [6, 1, 11, 3]
    worst = 0.0
    for first in (False, True):  # whether the first step is marked: if so, the state that is passed is dropped
        case = Case.random(spec, kind, batch=1, time=sum(lengths), seed=31)
        reset = from_lengths(lengths)
        reset[0, 0] = first

        def apart(c: Case, first: bool = first) -> list[Tensor]:
            outputs, start, state = [], 0, None if first else c.state
            for length in lengths:
                sequences = tuple(x[:, start : start + length] for x in c.sequences)
                h, last = spec.call(sequences, c.weights, state, None, backend, **spec.options)
                outputs.append(h)
                start, state = start + length, None
            return [torch.cat(outputs, 1), *observe(last)]

        worst = max(worst, error(case.replace(reset=reset).run(backend), case.run(backend, apart)))
    return worst


def inputs_stay(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """Nothing that is passed is changed, forward or backward: 0 or inf."""
    for batch, size in ((1, 1), (2, 0)):  # one head and one row are where a copy could be forgotten
        case = Case.random(spec, kind, batch=batch, size=size, time=12, reset=True, seed=37)
        given = (*case.sequences, *case.weights, *case.state)
        leaves = [x.clone().to(_place(backend)).requires_grad_() for x in given]  # there, where nothing copies them
        before = [x.detach().clone() for x in leaves]
        count, more = len(case.sequences), len(case.weights)
        state = type(case.state)(*leaves[count + more :])
        moved = case.replace(sequences=tuple(leaves[:count]), weights=tuple(leaves[count : count + more]), state=state)
        out = moved.outputs(backend)
        kept = [x.detach().clone() for x in out]
        moved.gradients(out, leaves)
        same = all(torch.equal(a, b) for a, b in zip(leaves, before, strict=True))
        if not (same and all(torch.equal(a, b) for a, b in zip(out, kept, strict=True))):
            return float("inf")
    return 0.0


def gradcheck(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """Numerical derivatives with respect to every input and the initial state, of h and the last state: 0 or inf.

    Small cases entry by entry, a larger one along random directions.
    """
    for time, reset, size, fast in ((1, False, 1, False), (4, True, 1, False), (7, True, 0, True)):
        case = Case.random(spec, FLOAT64, batch=2, time=time, size=size, reset=reset, seed=41 + time)
        # m is a gauge: nothing depends on it. A position is a count.
        free = 1 if isinstance(case.state, (MLSTMState, SLSTMState, WKVState, AttentionState)) else 0
        parts = (*case.sequences, *case.weights, *case.state[: len(case.state) - free])
        leaves = [x.clone().requires_grad_() for x in parts]
        count, more = len(case.sequences), len(case.weights)

        def function(*tensors: Tensor, case: Case = case, count: int = count, more: int = more, free: int = free):
            held = case.state[len(case.state) - free :]
            state = type(case.state)(*tensors[count + more :], *held)
            moved = case.replace(sequences=tensors[:count], weights=tensors[count : count + more], state=state)
            return tuple(moved.outputs(backend))

        if not torch.autograd.gradcheck(function, leaves, atol=1e-6, rtol=1e-4, fast_mode=fast):
            return float("inf")
    return 0.0


def gauge(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """With eps = 0, (c e^d, n e^d, m - d) is the same state."""
    worst = 0.0
    for time in (1, 14):
        case = Case.random(spec, kind, time=time, seed=43)
        shift = 1.0 + torch.rand(
            case.state.m.shape, generator=torch.Generator().manual_seed(1), dtype=case.state.m.dtype
        )
        grown = shift.exp()
        if isinstance(case.state, MLSTMState):
            c, n = case.state.c * grown[..., None, None], case.state.n * grown[..., None]
        else:
            c, n = case.state.c * grown, case.state.n * grown
        moved = case.replace(state=case.state._replace(c=c, n=n, m=case.state.m - shift))
        worst = max(worst, error(moved.outputs(backend), case.outputs(backend)))
    return worst


def compiles(spec: Spec, backend: str, kind: torch.dtype) -> float:
    """torch.compile(fullgraph=True) agrees, forward and backward, with state and with reset."""
    worst = 0.0
    for time, reset in (
        (1, False),
        (3 if backend == "reference" else spec.lengths[1], True),
    ):  # the reference is traced step by step
        case = Case.random(spec, kind, time=time, reset=reset, seed=47)

        def call(c: Case) -> list[Tensor]:
            @torch.compile(fullgraph=True, backend="aot_eager")
            def function(sequences, weights, state, marks):
                h, last = spec.call(sequences, weights, state, marks, backend, **spec.options)
                return h, last

            h, last = function(c.sequences, c.weights, c.state, c.reset)
            return [h, *observe(last)]

        worst = max(worst, error(case.run(backend, call), case.run(backend)))
    return worst


EVERY = (FLOAT64, FLOAT32, BFLOAT16, FLOAT16)
EXACT = (FLOAT64, FLOAT32)
LAWS: dict[Callable, tuple[torch.dtype, ...]] = {
    equals_reference: EVERY,
    chunk_free: EVERY,
    splits_anywhere: EXACT,
    steps_equal_whole: EXACT,
    batch_permutes: EXACT,
    future_is_unseen: EXACT,
    extreme_gates_stay_finite: EXACT,
    memory_may_be_anything: EXACT,
    strides_do_not_matter: EXACT,
    reset_separates: EXACT,
    inputs_stay: EXACT,
    gradcheck: (FLOAT64,),
    gauge: EXACT,
    compiles: (FLOAT32,),
}


def applies(law: Callable, spec: Spec, backend: str, kind: torch.dtype) -> bool:
    if law is not equals_reference and interpreted(backend) and spec.name.endswith(("-plain", "-eps", "-no-bias")):
        return False  # what they change is one line of two kernels, and an interpreter is slow
    if law is chunk_free and interpreted(backend) and kind != FLOAT32:
        return False  # it multiplies all types as float32
    if law is chunk_free:
        return spec.name.startswith(("mlstm", "ssm")) and backend != "reference"
    if law is gauge:
        return spec.name in ("mlstm-exp", "mlstm-exp-plain", "slstm-sigmoid", "slstm-exp", "wkv")
    if law is gradcheck:
        return not spec.name.endswith("-eps")
    return True


@cache
def takes(name: str, backend: str, kind: torch.dtype) -> bool:
    """Whether the backend does this op in this type, on this machine: asked of the backend itself."""
    try:
        with ground(backend):
            Case.random(SPECS[name], kind, time=3).outputs(backend)
    except ValueError as error:
        if "cannot take this call" not in str(error):  # a refusal, not a mistake that would make the laws vanish
            raise
        return False
    return True


def _here(spec: Spec, backend: str) -> Spec:
    """The spec at sizes that suit the place: Triton's interpreter takes a while for each program, and for each step.

    So there is one head, and loops over time are short; what runs over chunks still has several.
    """
    if not interpreted(backend) or not spec.name.startswith(("mlstm", "slstm", "lstm")):
        return spec
    lengths = spec.lengths if spec.name.startswith("mlstm") else (9, 20, 35)
    return replace(spec, sizes=tuple((1, *sizes[1:]) for sizes in spec.sizes), lengths=lengths)


def cases(only: str = "") -> Iterator[tuple[Callable, Spec, str, torch.dtype]]:
    for (law, kinds), spec in product(LAWS.items(), SPECS.values()):
        for backend, kind in product(spec.backends, kinds):
            if only in ("", backend) and applies(law, spec, backend, kind) and takes(spec.name, backend, kind):
                yield law, _here(spec, backend), backend, kind


def main(only: str = "") -> None:
    """Print every law's number of cases and worst errors, of one backend or of all."""
    table: dict[str, dict[torch.dtype, list[float]]] = {}
    for law, spec, backend, kind in cases(only):
        torch.compiler.reset()
        with ground(backend):
            table.setdefault(law.__name__, {}).setdefault(kind, []).append(law(spec, backend, kind))
    print("| law | cases | float64 | float32 | bfloat16 | float16 |\n|---|---|---|---|---|---|")
    for law, by_kind in table.items():
        worst = " | ".join(f"{max(by_kind[kind]):.1e}" if kind in by_kind else "" for kind in EVERY)
        print(f"| {law} | {sum(map(len, by_kind.values()))} | {worst} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
