"""The compiled mLSTM beyond the laws of contract.py: tails, segments, types, instruction sets, threads."""

from dataclasses import replace

import pytest
import torch

from exgate.ops import mlstm, native
from tests.ops.contract import SPECS, TOLERANCE, Case, error, reference

pytestmark = pytest.mark.skipif(not native.usable(), reason="needs the compiled kernels")
SETS = native.usable()


def _case(kind=torch.float32, *, name="mlstm-exp", sizes=(2, 5, 3), **options) -> Case:
    return Case.random(replace(SPECS[name], sizes=(sizes,)), kind, **options)


def _arguments(saves: bool, steps: int = 9, kind=torch.float32, chunk_size: int = 4):
    case = _case(kind, time=steps, reset=True)
    leaves = [x.clone().requires_grad_(saves) for x in case.sequences[:3]]
    gates = [x.float().requires_grad_(saves) for x in case.sequences[3:]]
    state = [x.clone().requires_grad_(saves) for x in case.state]
    return (*leaves, *gates, *state, case.reset, chunk_size, True, True, 0.0, saves)


@pytest.mark.parametrize("chunk_size", [4, 9])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_opcheck(chunk_size, kind):
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(torch.ops.exgate.mlstm_cpu, _arguments(True, 9, kind, chunk_size), test_utils=tests)


def test_opcheck_with_states_between_segments():
    torch.library.opcheck(torch.ops.exgate.mlstm_cpu, _arguments(True, 290, chunk_size=32))


def test_opcheck_without_a_state():
    arguments = _arguments(True)
    torch.library.opcheck(torch.ops.exgate.mlstm_cpu, (*arguments[:5], None, None, None, *arguments[8:]))


@pytest.mark.parametrize("steps", [20, 33, 70, 300])  # one chunk, two, several, several segments
@pytest.mark.parametrize("used", ["h", "c", "n"])
def test_gradients_where_no_state_comes_in(steps, used):
    case = _case(sizes=(2, 40, 33), time=steps, state=False, reset=steps == 70)

    def gradients(backend: str, kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [x.to(kind).requires_grad_() for x in case.sequences]
        h, last = mlstm(*leaves, reset=case.reset, backend=backend)
        loss = h.square().sum()
        if used != "h":
            loss = loss + getattr(last, used).sin().sum()
        return [h, *last, *torch.autograd.grad(loss, leaves)]

    assert error(gradients("cpu", torch.float32), gradients("reference", torch.float64)) < 2e-5


def test_without_gradients_nothing_is_kept_for_backward():
    *_, cs, ns, ms = torch.ops.exgate.mlstm_cpu(*_arguments(False, 400))
    assert cs.numel() == ns.numel() == ms.numel() == 0


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 31, 33), (1, 40, 65), (3, 32, 7)])
def test_every_instruction_set_takes_any_head_size(name, sizes):
    case = _case(sizes=sizes, time=41, reset=True, seed=3)
    with native.instruction_set(name):
        assert error(case.run("cpu"), reference(case)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("chunk_size", [1, 3, 32, 100, 300])
@pytest.mark.parametrize("name", ["mlstm-exp", "mlstm-sigmoid"])
def test_segments_join(chunk_size, name):
    """Over several segments, with documents that end anywhere in them, chunks above the largest included."""
    case = _case(name=name, time=300, batch=1, seed=8)
    reset = torch.zeros(1, 300, dtype=torch.bool)
    reset[0, [31, 128, 129, 200, 255]] = True
    for marks in (None, reset):
        moved = case.replace(reset=marks)
        found = moved.run("cpu", chunk_size=chunk_size)
        assert error(found, reference(moved)) < TOLERANCE[torch.float32]


def test_the_stabilizer_is_the_recurrences_at_any_chunk_size():
    case = _case(time=70, reset=True, seed=2)
    state = case.spec.call(case.sequences, (), case.state, case.reset, "reference")[1]
    for chunk_size in (1, 7, 32):
        found = case.spec.call(case.sequences, (), case.state, case.reset, "cpu", chunk_size=chunk_size)[1]
        assert torch.allclose(found.m, state.m, atol=1e-6)


def test_an_m_of_minus_infinity_is_the_empty_state_of_the_whole_sequence_form():
    case = _case(time=40, seed=6)
    empty = case.state._replace(
        c=torch.zeros_like(case.state.c), n=torch.zeros_like(case.state.n), m=torch.full_like(case.state.m, -torch.inf)
    )
    case = case.replace(state=empty)
    assert error(case.run("cpu")[:1], reference(case)[:1]) < TOLERANCE[torch.float32]
    assert all(bool(torch.isfinite(x).all()) for x in case.run("cpu"))


def test_slices_of_one_projection_are_read_where_they_lie():
    """q, k and v as slices of one tensor, whose rows are apart, and gates whose heads come first."""
    case = _case(sizes=(2, 8, 8), time=37)
    q, k, v, i, f = case.sequences
    together = torch.cat([q, k, v], -1)
    sliced = together.split(8, -1)
    gates = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (i, f)]
    wanted = case.outputs("cpu")
    assert error(case.replace(sequences=(*sliced, *gates)).outputs("cpu"), wanted) == 0.0


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_threads_do_not_change_a_bit(kind):
    case = _case(kind, sizes=(4, 24, 16), batch=3, time=150)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(case.run("cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_it_is_the_backend_on_a_cpu_and_refuses_float64_in_words():
    case = _case(time=40)
    assert error(case.outputs(None), case.outputs("cpu")) == 0.0
    double = _case(torch.float64, time=4)
    double.outputs(None)
    with pytest.raises(ValueError, match="compute in float32, and an input is float64"):
        double.outputs("cpu")


def test_other_types_of_gates_and_state():
    """bfloat16 gates with float32 operands, and a state in bfloat16: gates and states are float32 inside."""
    case = _case(time=20)
    q, k, v, i, f = case.sequences
    half = [x.bfloat16() for x in (i, f)]
    h, state = mlstm(q, k, v, *half, backend="cpu")
    wanted, _ = mlstm(q, k, v, *(x.float() for x in half), backend="reference")
    assert h.dtype == state.c.dtype == torch.float32
    assert error([h], [wanted]) < TOLERANCE[torch.float32]
