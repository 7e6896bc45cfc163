"""Single steps without gradients, which the native backend makes by instructions of their own."""

import pytest
import torch

from exgate.ops import native
from tests.ops.contract import SPECS, Case, error

pytestmark = pytest.mark.skipif(native.absent() is not None, reason="no compiled kernels here")
WITH_STEPS = [name for name, spec in SPECS.items() if "cpu" in spec.backends]
STEPS = {
    "mlstm-exp": "mlstm_step",
    "slstm-exp": "slstm_step",
    "lstm-peepholes": "lstm_step",
    "conv": "conv_step",
    "ssm": "ssm_step",
}


def _case(name: str, **options) -> Case:
    return Case.random(SPECS[name], torch.float32, batch=3, time=1, seed=3, **options)


def _larger(name: str) -> Case:
    """Sizes with whole vectors, several of them, and a tail."""
    sizes = {"mlstm": (2, 37, 300), "slstm": (3, 67), "lstm": (3, 67), "conv": (83, 4), "ssm": (21, 37), "wkv": (83,)}[
        name.partition("-")[0]
    ]
    spec = SPECS[name]
    wide = type(spec)(**{**spec.__dict__, "sizes": (sizes,)})
    return Case.random(wide, torch.float32, batch=3, time=1, seed=5)


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize(
    "make", [_case, lambda name: _case(name, reset=True), lambda name: _case(name, state=False), _larger]
)
def test_a_step_is_the_definition(name, make):
    case = make(name)
    assert error(case.outputs("cpu"), case.to(torch.float64).outputs("reference")) < 2e-6


@pytest.mark.parametrize("name", WITH_STEPS)
def test_a_step_reads_no_new_memory_and_changes_no_old(name):
    case = _larger(name)
    wanted = case.outputs("cpu")
    before = [x.clone() for x in (*case.sequences, *case.weights, *case.state)]
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    try:
        found = case.outputs("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert error(found, wanted) == 0
    after = (*case.sequences, *case.weights, *case.state)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", ["slstm-sigmoid", "lstm"])
def test_the_output_is_not_the_state(name):
    case = _case(name)
    h, state = case.spec.call(case.sequences, case.weights, case.state, None, "cpu")
    kept = state.h.clone()
    h.zero_()
    assert torch.equal(state.h, kept)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("name", ["mlstm-exp", "slstm-sigmoid", "lstm-peepholes"])
def test_any_number_of_threads_gives_the_same_bits(name, threads):
    sizes = {"mlstm": (4, 128, 256), "slstm": (2, 300), "lstm": (2, 300)}[name.partition("-")[0]]
    spec = SPECS[name]
    case = Case.random(type(spec)(**{**spec.__dict__, "sizes": (sizes,)}), torch.float32, batch=2, time=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = case.outputs("cpu")
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(case.outputs("cpu"), wanted, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", STEPS)
def test_opcheck(name):
    case, op = _case(name), getattr(torch.ops.exgate, STEPS[name])
    first = [x[:, 0] for x in case.sequences]
    arguments = {
        "mlstm-exp": lambda: (*first, *case.state, True, True, 1e-6),
        "slstm-exp": lambda: (*first, case.weights[0], *case.state, True),
        "lstm-peepholes": lambda: (*first, case.weights[0], *case.state, case.weights[1]),
        "conv": lambda: (*first, case.weights[0].T, case.weights[1], *case.state),
        "ssm": lambda: (*first[:2], case.weights[0], *first[2:], case.weights[1], *case.state),
    }[name]()
    torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("name", STEPS)
def test_a_compiled_step_is_the_same(name):
    case = _case(name)
    torch.compiler.reset()
    compiled = torch.compile(case.outputs, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert error(compiled("cpu"), case.outputs("cpu")) == 0
