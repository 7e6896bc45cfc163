"""What the laws do not reach: heads wider than a tile, states that are computed again, how chunks are chosen."""

from dataclasses import replace

import pytest
import torch

from exgate.ops import gpu, mlstm
from exgate.ops.mlstm import triton
from tests.ops.contract import BFLOAT16, FLOAT32, PLACE, SPECS, Case, error, ground, reference

pytestmark = pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")
ONE_HEAD = {name: replace(spec, sizes=((1, 80, 144),)) for name, spec in SPECS.items() if name.startswith("mlstm")}


def _run(case: Case, **options) -> list[torch.Tensor]:
    with ground("triton"):
        return case.run("triton", **options)


def test_heads_wider_than_a_tile():
    """float32 takes 32 columns of 80 and 144 at a time, and 128 of what it makes."""
    case = Case.random(ONE_HEAD["mlstm-exp"], FLOAT32, batch=1, time=40, reset=True, seed=3)
    assert error(_run(case, chunk_size=32), reference(case)) < 1e-5


@pytest.mark.parametrize("every", [2, 8])
@pytest.mark.parametrize("state", [True, False])
def test_states_that_are_computed_again(monkeypatch, every, state):
    """Kept at every second chunk of five, or nowhere but at the start: the same gradients as with all of them."""
    case = Case.random(replace(SPECS["mlstm-exp"], sizes=((1, 4, 7),)), batch=1, time=70, state=state, seed=4).to(
        FLOAT32
    )
    monkeypatch.setattr(triton, "chunking", lambda *sizes: triton.Chunking(16, every))
    assert error(_run(case), reference(case)) < 1e-5


def test_an_empty_state_whose_m_is_minus_infinity():
    """The empty state of the published whole-sequence form."""
    case = Case.random(replace(SPECS["mlstm-exp"], sizes=((1, 4, 7),)), FLOAT32, batch=1, time=20, seed=5)
    c, n, m = (torch.zeros_like(x) for x in case.state)
    case = case.replace(state=type(case.state)(c, n, m - torch.inf))
    with ground("triton"):
        h, *_ = case.outputs("triton", chunk_size=16)
    assert error([h], case.outputs("reference")[:1]) < 1e-5


def test_half_precision_states_are_kept_in_the_type_of_the_products():
    case = Case.random(replace(SPECS["mlstm-exp"], sizes=((1, 16, 16),)), BFLOAT16, batch=1, time=40)
    c, n, m = case.state
    tensors = (*case.sequences[:3], *(x.float() for x in case.sequences[3:]), c, n, m)
    arguments = (*(x.to(PLACE) for x in tensors), None, 16, 1, True, True, 0.0)
    with ground("triton"):
        *_, kept, ns, ms, nq = torch.ops.exgate.mlstm_triton(*arguments, True)
        assert (kept.dtype, kept.shape, ns.shape, ms.shape) == (BFLOAT16, (1, 1, 4, 16, 16), (1, 1, 4, 16), (1, 1, 4))
        assert nq.shape == (1, 1, 40)
        *_, last = torch.ops.exgate.mlstm_triton(*arguments, False)
    assert last.numel() == 0


def test_a_state_of_one_chunk_alone_costs_no_walk_back():
    """A single chunk that nothing comes before or after has no gradient of states to compute."""
    names = {}
    for state in (False, True):
        case = Case.random(replace(SPECS["mlstm-exp"], sizes=((1, 16, 16),)), FLOAT32, batch=1, time=16, state=state)
        sequences = [x.requires_grad_() for x in case.sequences]
        with gpu.recording(gpu.SM90) as launches:
            h, _ = mlstm(*sequences, case.state, backend="triton", chunk_size=16)
            h.sum().backward()
        names[state] = [launch.kernel.__name__ for launch in launches]
    assert set(names[True]) - set(names[False]) == {"state_gradients"}
    assert names[False].count("gradients") == 3


def _unspecialised(kernel) -> set[str]:
    """The arguments whose values make no other kernel; the interpreter keeps only what the decorator was given."""
    if hasattr(kernel, "params"):
        return {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    return set(kernel.kwargs.get("do_not_specialize") or ())


def test_no_kernel_is_compiled_anew_for_another_batch_or_length():
    """All that makes a kernel another one is the same: constants, options, and the numbers that are specialised."""
    seen = []
    for batch, time in ((8, 4096), (8, 4095), (3, 1000)):
        q, k, v = (torch.empty(batch, time, 4, 64, dtype=BFLOAT16) for _ in range(3))
        with gpu.recording(gpu.SM90) as launches:
            mlstm(q, k, v, q[..., 0], q[..., 0], backend="triton", chunk_size=256)
        for launch in launches:
            free = _unspecialised(launch.kernel)
            values = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
            whole = {name for name, value in values.items() if isinstance(value, int)}
            assert whole <= free, f"{launch.kernel.__name__}: {whole - free} would be specialised"
        seen.append([(launch.kernel.__name__, launch.constants, launch.options) for launch in launches])
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize(("key", "value"), [(64, 64), (128, 256), (256, 512), (512, 512)])
def test_kept_states_stay_within_the_bound(key, value, half):
    for sequences, steps in ((8, 512), (64, 4096), (16, 65536), (8, 1 << 20)):
        size, every = triton.chunking(sequences, steps, key, value, half)
        width = 2 if half else 4
        kept = triton._kept(-(-steps // size), every) * key * value * (width if every == 1 else 4)
        chunks = -(-steps // size)
        assert kept <= triton.KEPT * steps * 2 * (key + value) * width or every >= chunks


def test_the_choice_of_chunks():
    """Larger memories take longer chunks, sequences shorter than a chunk take one, lone sequences walk less often."""
    sizes = [triton.chunking(64, 8192, key, 2 * key, True).size for key in (64, 128, 256)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert triton.chunking(512, 100, 128, 256, True).size == 128
    assert triton.chunking(2, 65536, 64, 64, True).size > triton.chunking(512, 65536, 64, 64, True).size


@pytest.mark.parametrize("target", [gpu.SM80, gpu.SM90, gpu.GFX942])
def test_tiles_are_whole_powers_of_two_within_a_chunk(target):
    for size in (16, 64, 256, 1024):
        for key, value in ((16, 16), (24, 40), (128, 256), (512, 512)):
            for half in (True, False):
                chosen = triton.tiles(size, key, value, half, target)._asdict()
                for kernel, tile in chosen.items():
                    steps = [n for name, n in tile.items() if name in ("BT", "BS", "BR", "BC")]
                    assert all(size % n == 0 and n >= 16 for n in steps), kernel
                    assert all(n & (n - 1) == 0 for n in tile.values()), kernel


def test_refusals_say_why():
    q, i = torch.randn(1, 3, 1, 16), torch.randn(1, 3, 1)
    with pytest.raises(ValueError, match="a tensor is on cpu, not on a GPU"):
        mlstm(q, q, q, i, i, backend="triton")
    q, i = q.to(PLACE), i.to(PLACE)
    with ground("triton"), pytest.raises(ValueError, match="an input is float64"):
        mlstm(q.double(), q, q, i, i, backend="triton")
