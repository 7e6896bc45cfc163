"""Errors, the choice of a backend, and the types that go in and come out."""

import sys

import pytest
import torch

from exgate.ops import MLSTMState, SSMState, conv, dispatch, lstm, mlstm, native, slstm, ssm, use_backend
from exgate.ops.mlstm import cpu, eager, reference
from tests.ops.contract import SPECS, Case, error

B, T, H, K, V = 2, 5, 4, 3, 6


def _mlstm(**changes):
    parts = {"q": (B, T, H, K), "k": (B, T, H, K), "v": (B, T, H, V), "i": (B, T, H), "f": (B, T, H)}
    options = {name: changes.pop(name) for name in list(changes) if name not in parts}
    return mlstm(*(torch.randn(changes.get(name, shape)) for name, shape in parts.items()), **options)


def _slstm(x=None, **options):
    return slstm(torch.randn(B, T, 4, H, K) if x is None else x, torch.randn(4, H, K, K), **options)


def _ssm(**changes):
    shapes = {"u": (B, T, H), "delta": (B, T, H), "a": (H, K), "b": (B, T, K), "c": (B, T, K), "skip": (H,)}
    options = {name: changes.pop(name) for name in list(changes) if name not in shapes}
    return ssm(*(torch.rand(changes.get(name, shape)) for name, shape in shapes.items()), **options)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: _ssm(delta=(B, 6, H)), "ssm: delta has T=6 in shape (2, 6, 4) = (B, T, D), but u has T=5"),
        (lambda: _ssm(a=(K, H)), "ssm: a has D=3 in shape (3, 4) = (D, N), but u has D=4"),
        (lambda: _ssm(c=(B, T, 7)), "ssm: c has N=7 in shape (2, 5, 7) = (B, T, N), but u and a has N=3"),
        (lambda: _ssm(skip=(K,)), "ssm: skip has D=3"),
        (lambda: _ssm(chunk_size=0), "ssm: chunk_size is 0; it should be at least 1"),
        (lambda: _ssm(state=SSMState(torch.zeros(B, K, H))), "ssm: state.h has D=3 in shape (2, 3, 4) = (B, D, N)"),
        (lambda: _mlstm(f=(B, 6, H)), "mlstm: f has T=6 in shape (2, 6, 4) = (B, T, H), but q has T=5"),
        (lambda: _mlstm(k=(B, T, H, 8)), "mlstm: k has K=8 in shape (2, 5, 4, 8) = (B, T, H, K), but q has K=3"),
        (
            lambda: _mlstm(v=(B, T, V)),
            "v has shape (2, 5, 6), which is 3-dimensional; it should be (B, T, H, V)",
        ),
        (lambda: _mlstm(q=(B, 0, H, K)), "mlstm: q has T=0"),
        (lambda: _mlstm(input_gate="relu"), "input_gate is 'relu'; it should be 'exp' or 'sigmoid'"),
        (lambda: _mlstm(chunk_size=0), "chunk_size is 0; it should be at least 1"),
        (lambda: _mlstm(reset=torch.zeros(B, T)), "reset has type torch.float32; it should be torch.bool"),
        (lambda: _mlstm(reset=torch.zeros(B, 7, dtype=torch.bool)), "mlstm: reset has T=7"),
        (lambda: _mlstm(backend="cuda"), "mlstm: there is no backend 'cuda'. Use one of 'cpu', 'triton', 'eager', "),
        (
            lambda: _mlstm(state=MLSTMState(torch.zeros(B, H, K, K), torch.zeros(B, H, K), torch.zeros(B, H))),
            "mlstm: state.c has V=3 in shape (2, 4, 3, 3) = (B, H, K, V), but q and v has V=6",
        ),
        (
            lambda: slstm(torch.randn(B, T, 3, H, K), torch.randn(4, H, K, K)),
            "3 in dimension 2 of (2, 5, 3, 4, 3) = (B, T, 4, H, K); it should be 4",
        ),
        (lambda: slstm(torch.randn(B, T, 4, H, K), torch.randn(4, H, K, 2)), "slstm: r has K=2"),
        (
            lambda: slstm(torch.randn(B, T, 4, H, K), torch.randn(4, H, K, K), forget_gate="none"),
            "forget_gate is 'none'",
        ),
        (
            lambda: slstm(torch.zeros(B, T, 4, H, K, dtype=torch.long), torch.randn(4, H, K, K)),
            "should be floating-point",
        ),
        (lambda: lstm(torch.randn(B, T, 4, H, K), torch.randn(4, H, K, K), peephole=torch.randn(3, K, H)), "peephole"),
        (lambda: lstm(torch.randn(B, 0, 4, H, K), torch.randn(4, H, K, K)), "a sequence has at least one step"),
        (lambda: conv(torch.randn(B, T, 8), torch.randn(7, 4)), "conv: weight has D=7"),
        (lambda: conv(torch.randn(B, T, 8), torch.randn(8, 0)), "at least one tap"),
    ],
)
def test_errors_say_what_was_given_and_what_was_expected(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert sentence in str(caught.value)


class Refusing:
    """A backend that cannot take any call."""

    @staticmethod
    def refuses(*args):
        return "K=3 is not a multiple of 16"

    @staticmethod
    def run(*args):
        raise AssertionError("a backend that refuses must not run")


def test_the_first_backend_that_does_not_refuse_runs(monkeypatch):
    backends = sys.modules["exgate.ops.mlstm"].BACKENDS
    monkeypatch.setitem(backends, "cpu", Refusing)
    monkeypatch.setitem(backends, "eager", Refusing)
    assert _mlstm()[0].shape == (B, T, H, V)
    with pytest.raises(ValueError, match="backend 'eager' cannot take this call: K=3 is not a multiple of 16"):
        _mlstm(backend="eager")


def test_use_backend_holds_inside_its_block_only(monkeypatch):
    ran, best = [], next(b for b in (cpu, eager) if b is eager or not native.absent())
    for backend in {best, eager, reference}:
        run = backend.run
        monkeypatch.setattr(backend, "run", lambda *args, b=backend, run=run: (ran.append(b), run(*args))[1])
    with use_backend("reference"):
        _mlstm()
        _mlstm(backend="eager")
    _mlstm()
    assert ran == [reference, eager, best]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_outputs_have_the_inputs_type_and_states_at_least_float32(name, kind):
    spec = SPECS[name]
    for time in (1, 7):
        case = Case.random(spec, kind, time=time, state=False)
        h, state = spec.call(case.sequences, case.weights, None, None, None, **spec.options)
        assert h.dtype == kind
        assert all(x.dtype == (torch.float64 if kind == torch.float64 else torch.float32) for x in state)


@pytest.mark.parametrize("name", SPECS)
def test_autocast_leaves_states_and_gates_in_float32(name):
    """Only the operands of matrix products go to bfloat16: ops without any are what they are without autocast."""
    spec = SPECS[name]
    case = Case.random(spec, torch.float32, time=11)
    exact = case.outputs(None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = case.outputs(None)
    assert all(x.dtype == torch.float32 for x in found)
    if name.startswith(("mlstm", "attention")):
        assert 0 < error(found, exact) < 2e-2
    else:
        assert error(found, exact) == 0


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("time", [1, 7])
def test_an_empty_batch(name, time):
    """No sequence gives no output, an empty state, and gradients of 0: the last batch of a shard may be one."""
    spec = SPECS[name]
    for backend in (None, *spec.backends):
        case = Case.random(spec, torch.float32, batch=0, time=time, reset=True)
        leaves = [x.requires_grad_() for x in (*case.sequences, *case.weights)]
        h, state = spec.call(case.sequences, case.weights, case.state, case.reset, backend, **spec.options)
        assert h.shape[:2] == (0, time)
        assert all(len(part) == 0 for part in state)
        gradients = torch.autograd.grad(h.sum(), leaves, allow_unused=True)
        assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_backends_are_known_by_name():
    assert {name for spec in SPECS.values() for name in spec.backends} <= set(dispatch.NAMES)
    with pytest.raises(ValueError, match=r"there is no backend 'refrence'\. Use one of 'cpu', 'triton'"):
        use_backend("refrence").__enter__()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own forward mode uses it
@pytest.mark.parametrize("name", SPECS)
def test_transforms_of_torch_func(name):
    """jvp is the transpose of the gradient; vmap is a loop: they go by the definition, since they see into no other."""
    spec = SPECS[name]
    case = Case.random(spec, torch.float64, time=5, reset=True)
    count = len(case.sequences)

    def call(*leaves, backend=None):
        h, _ = spec.call(leaves[:count], leaves[count:], case.state, case.reset, backend, **spec.options)
        return h + 0 * sum(weights.sum() for weights in leaves[count:])  # some specs do not read all

    leaves = [x.clone().requires_grad_() for x in (*case.sequences, *case.weights)]
    directions = [torch.randn_like(x) for x in leaves]
    y = call(*leaves)
    weighing = torch.randn_like(y)
    wanted = sum((g * d).sum() for g, d in zip(torch.autograd.grad(y, leaves, weighing), directions, strict=True))
    values = tuple(x.detach() for x in leaves)
    found = torch.func.jvp(call, values, tuple(directions))[1]
    torch.testing.assert_close((found * weighing).sum(), wanted)
    gradients = torch.func.grad(lambda *x: (call(*x) * weighing).sum(), tuple(range(len(leaves))))(*values)
    for ours, theirs in zip(gradients, torch.autograd.grad(call(*leaves), leaves, weighing), strict=True):
        torch.testing.assert_close(ours, theirs)
    many = torch.func.vmap(lambda x: call(x, *values[1:]))(torch.stack([values[0], 2 * values[0]]))
    torch.testing.assert_close(many[1], call(2 * values[0], *values[1:]))
    if "eager" in spec.backends:
        with pytest.raises(ValueError, match=r"torch\.func cannot see into it"):
            torch.func.jvp(lambda *x: call(*x, backend="eager"), values, tuple(directions))


@pytest.mark.parametrize("name", SPECS)
def test_second_derivatives_are_those_of_the_definition(name):
    spec = SPECS[name]
    case = Case.random(spec, torch.float64, time=3)

    def twice(backend):
        leaves = [x.clone().requires_grad_() for x in case.sequences]
        h, _ = spec.call(tuple(leaves), case.weights, case.state, None, backend, **spec.options)
        (first, *_) = torch.autograd.grad(h.square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaves, allow_unused=True)

    assert any(gradient is not None for gradient in twice("reference"))
    if not name.startswith("attention"):  # its eager backend is plain operations
        with pytest.raises(RuntimeError, match=r"can be differentiated once.*exgate\.use_backend"):
            twice("eager")
