"""A step of a model, recorded once and then replayed by one call of C: on the CPU what `graph` is on a GPU.

Written out in Python, a step is hundreds of calls, which for a small model take ten times as long as the work. The
recorder runs one step as it is written and notes each operation on tensors that depend on the token or on the state, as
an instruction on the very memory that the operation used (`exgate.ops.program`). What depends on neither is computed
once. An operation that has no instruction ends the recording, and the model goes on as it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exgate.generate.graph import Graph, Unrecordable
from exgate.ops import native, program
from exgate.ops.conv import cpu as conv
from exgate.ops.linear import cpu as linear
from exgate.ops.lstm import step as lstm
from exgate.ops.mlstm import step as mlstm
from exgate.ops.program import Function, Instruction
from exgate.ops.slstm import step as slstm
from exgate.ops.ssm import step as ssm
from exgate.ops.state import State, flatten, map_state

aten, exgate = torch.ops.aten, torch.ops.exgate


PATIENCE = 4  # steps before one is recorded, which takes as long as a dozen: a few tokens are not worth it


class Stepper:
    """The next step of a model, recorded where that can be done: call it with the tokens (B,) and the state.

    The logits and the state that it returns are overwritten by the next call.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._replay: Replay | Graph | None = None
        self._steps = 0  # of as many rows, so far
        self._rows = 0
        self._refused = not getattr(model, "replayable", False)

    def __call__(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """tokens (B,) -> logits (B, V) and the state."""
        if self._replay is not None and state is self._replay.state:
            return self._replay(tokens), state
        self._steps = self._steps + 1 if len(tokens) == self._rows else 0
        self._rows = len(tokens)
        kind = recorder(len(tokens), tokens.device)
        if self._steps >= PATIENCE and not self._refused and kind is not None:
            self._replay = None  # its memory is free again once the new one has copied the state
            try:
                self._replay = kind(self.model, tokens, state)
                return self._replay.logits, self._replay.state
            except Unrecordable:
                self._refused = True
        logits, state = self.model(tokens[:, None], state)
        return logits[:, -1], state


def recorder(rows: int, device: torch.device) -> type[Replay | Graph] | None:
    """What records a step of so many rows there: a graph on a GPU, else a program if the compiled kernels are here."""
    if device.type == "cuda":
        return Graph
    return Replay if rows <= program.MOST_ROWS and native.absent() is None else None


class Replay:
    """One step of `model`, taken and recorded: `logits` and `state` are those after it, and after each call.

    Raises:
        Unrecordable: an operation that has no instruction, named; or tensors that are not on the CPU.
    """

    def __init__(self, model: Any, tokens: Tensor, state: State) -> None:
        if tokens.device.type != "cpu":
            raise Unrecordable("replay: the model is not on the CPU")
        self._tokens = tokens[:, None].clone()
        self.state = map_state(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), state)
        before = flatten(self.state)
        recorder = _Recorder([self._tokens, *before.values()])
        with recorder:
            logits, after = model(self._tokens, self.state)
            self.logits = logits[:, -1]
        if flatten(after).keys() != before.keys():
            raise Unrecordable("replay: a state that changes its form")
        instructions, self._kept = recorder.instructions, recorder.kept
        for name, old in before.items():
            _carry(instructions, old, flatten(after)[name])
        self._program = (Instruction * len(instructions))(*instructions)

    def __call__(self, tokens: Tensor) -> Tensor:
        self._tokens.copy_(tokens[:, None])
        program.run(self._program)
        return self.logits


def _carry(instructions: list[Instruction], old: Tensor, new: Tensor) -> None:
    """Bring the state after the step to where the step reads it: written there at once if a step of an op wrote it."""
    if new.shape != old.shape or new.dtype != old.dtype:
        raise Unrecordable("replay: a state that changes its form")
    if not old.numel() or new.data_ptr() == old.data_ptr():
        return
    old.copy_(new)
    size = new.numel() * new.element_size()
    writer = next((k for k, i in enumerate(instructions) if i.kind in STEPS and new.data_ptr() in i.at[:4]), None)
    later = [] if writer is None else instructions[writer + 1 :]
    if writer is None or any(_offset(place, old, size) is not None for i in later for place in i.at):
        instructions.append(program.elementwise(Function.COPY, old, new))
        return
    for i in instructions[writer:]:
        for k, place in enumerate(i.at):
            if (offset := _offset(place, new, size)) is not None:
                i.at[k] = old.data_ptr() + offset


def _offset(place: int | None, tensor: Tensor, size: int) -> int | None:
    """How far into the tensor's memory the place is, in bytes; None where it is outside."""
    offset = -1 if place is None else place - tensor.data_ptr()
    return offset if 0 <= offset < size else None


class _Recorder(TorchDispatchMode):
    """Notes what is done to the tensors `live` and to all that comes of them."""

    def __init__(self, live: list[Tensor]) -> None:
        super().__init__()
        self.instructions: list[Instruction] = []
        self.kept: list[Tensor] = []  # so that no two tensors ever have the same place
        self._places = {_place(tensor) for tensor in live if tensor.numel()}

    def live(self, tensor: Tensor) -> bool:
        return _place(tensor) in self._places

    def dense(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy of it without gaps: made at every step if the tensor is live."""
        if tensor.is_contiguous():
            return tensor
        copy = tensor.contiguous()
        self.kept.append(copy)
        if self.live(tensor):
            self.instructions.append(program.elementwise(Function.COPY, copy, tensor))
        return copy

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        lower = INSTRUCTIONS.get(func)
        if lower is None and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        inputs, outputs = ([x for x in tree_leaves(part) if isinstance(x, Tensor)] for part in ((args, kwargs), out))
        self.kept += [*inputs, *outputs]
        if func in SHAPE_ONLY or not any(map(self.live, inputs)):
            return out  # a constant
        if outputs and all(map(self.live, outputs)) and not func._schema.is_mutable:
            return out  # a view
        if lower is None or func._schema.is_mutable:
            raise Unrecordable(f"replay: there is no instruction for {func}")
        try:
            self.instructions += lower(self, out, *args, **kwargs)
        except ValueError as error:
            raise Unrecordable(f"replay: {func}: {error}") from None
        self._places |= {_place(tensor) for tensor in outputs}
        return out


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


STEPS = (program.Kind.MLSTM, program.Kind.SLSTM, program.Kind.LSTM, program.Kind.CONV, program.Kind.SSM)
SHAPE_ONLY = {aten.zeros_like.default, aten.ones_like.default, aten.new_zeros.default, aten.new_ones.default}
Lower = Callable[..., list[Instruction]]  # (recorder, what the operation returned, *its arguments)


def _dense(lower: Callable[..., Instruction]) -> Lower:
    """An instruction whose operands lie without gaps."""

    def found(recorder: _Recorder, out, *args, **kwargs) -> list[Instruction]:
        return [lower(out, *(recorder.dense(x) if isinstance(x, Tensor) else x for x in args), **kwargs)]

    return found


def _one(function: Function) -> Lower:
    return lambda recorder, out, x: [program.elementwise(function, out, x)]


def _two(function: Function) -> Lower:
    def found(recorder: _Recorder, out: Tensor, a: Tensor, b: Tensor | float, *, alpha: float = 1) -> list[Instruction]:
        if alpha != 1:
            raise ValueError("alpha other than 1")
        if not isinstance(b, Tensor):
            b = torch.tensor(b, dtype=a.dtype)
            recorder.kept.append(b)
        return [program.elementwise(function, out, a, b)]

    return found


def _gelu(recorder: _Recorder, out: Tensor, x: Tensor, *, approximate: str = "none") -> list[Instruction]:
    if approximate != "none":
        raise ValueError(f"approximate={approximate!r}")
    return [program.elementwise(Function.GELU, out, x)]


def _softplus(recorder: _Recorder, out: Tensor, x: Tensor, beta: float = 1, threshold: float = 20):
    if (beta, threshold) != (1, 20):
        raise ValueError(f"beta={beta}, threshold={threshold}")
    return [program.elementwise(Function.SOFTPLUS, out, x)]


def _power(recorder: _Recorder, out: Tensor, x: Tensor, exponent: float) -> list[Instruction]:
    if exponent != 2:
        raise ValueError(f"exponent {exponent}")
    return [program.elementwise(Function.SQUARE, out, x)]


def _copy(recorder: _Recorder, out: Tensor, x: Tensor, **options) -> list[Instruction]:
    if (out.dtype, x.dtype) == (torch.float32, torch.bfloat16) and out.is_contiguous() and x.is_contiguous():
        return [program.widen(out, x)]
    return [program.elementwise(Function.COPY, out, x)]


def _cat(recorder: _Recorder, out: Tensor, parts: list[Tensor], dim: int = 0) -> list[Instruction]:
    places = out.split([part.shape[dim] for part in parts], dim)
    return [program.elementwise(Function.COPY, *pair) for pair in zip(places, parts, strict=True) if pair[1].numel()]


def _stack(recorder: _Recorder, out: Tensor, parts: list[Tensor], dim: int = 0) -> list[Instruction]:
    return [program.elementwise(Function.COPY, *pair) for pair in zip(out.unbind(dim), parts, strict=True)]


def _linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Instruction:
    return linear.lower(out, x, weight, None, bias)


def _bmm(recorder: _Recorder, out: Tensor, a: Tensor, b: Tensor) -> list[Instruction]:
    """A product with constant matrices on one side, which are laid out as the weights of a `Linear`."""
    if recorder.live(b):  # from the other side
        out, a, b = out.transpose(1, 2), b.transpose(1, 2), a.transpose(1, 2)
    rows = [x.stride(2) == 1 or x.shape[2] == 1 for x in (out, a)]
    if recorder.live(b) or not all(rows):
        raise ValueError("a product of two tensors that change")
    return [program.linear(out, a, recorder.dense(b.transpose(1, 2)), None, None)]


def _rms_norm(out: Tensor, x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None):
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return program.norm(out, x, shape, weight, None, eps, mean=False)


def _layer_norm(
    out: Tensor, x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Instruction:  # fmt: skip
    return program.norm(out, x, shape, weight, bias, eps, mean=True)


INSTRUCTIONS: dict[torch._ops.OpOverload, Lower] = {
    **{
        getattr(aten, name).default: _one(Function[name.upper()]) for name in ("tanh", "sigmoid", "silu", "relu", "exp")
    },
    aten.gelu.default: _gelu,
    aten.softplus.default: _softplus,
    aten.pow.Tensor_Scalar: _power,
    aten.add.Tensor: _two(Function.ADD),
    aten.sub.Tensor: _two(Function.SUBTRACT),
    aten.mul.Tensor: _two(Function.MULTIPLY),
    aten.div.Tensor: _two(Function.DIVIDE),
    aten.clone.default: _copy,
    aten._to_copy.default: _copy,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.linear.default: _dense(_linear),
    aten.bmm.default: _bmm,
    aten.embedding.default: _dense(lambda out, table, tokens, *options: program.embedding(out, table, tokens)),
    aten.rms_norm.default: _dense(_rms_norm),
    aten.layer_norm.default: _dense(_layer_norm),
    exgate.linear_cpu.default: _dense(linear.lower),
    exgate.mlstm_step.default: _dense(mlstm.lower),
    exgate.slstm_step.default: _dense(slstm.lower),
    exgate.lstm_step.default: _dense(lstm.lower),
    exgate.conv_step.default: _dense(conv.lower),
    exgate.ssm_step.default: _dense(ssm.lower),
}
