"""What the laws do not reach of the persistent kernels: heads of several tiles, many sequences, how calls are cut."""

from dataclasses import replace

import pytest
import torch

from exgate.ops import gpu, lstm, persistent, slstm
from exgate.ops.persistent import Tiles, tiles
from exgate.ops.state import map_state
from tests.ops.contract import PLACE, SPECS, Case, error, ground, reference

pytestmark = pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")
NAMES = ["slstm-sigmoid", "slstm-exp", "lstm", "lstm-peepholes"]


def _case(name: str, heads: int, size: int, kind=torch.float32, **options) -> Case:
    return Case.random(replace(SPECS[name], sizes=((heads, size),)), kind, **options)


def _error(case: Case) -> float:
    with ground("triton"):
        return error(case.run("triton"), reference(case))


@pytest.mark.parametrize(("name", "size"), list(zip(NAMES, (24, 17, 40, 33), strict=True)))
def test_heads_and_batches_need_not_fill_their_tiles(name, size):
    assert _error(_case(name, 2, size, batch=11, time=2, reset=True)) < 1e-5


@pytest.mark.parametrize(("name", "size", "block"), list(zip(NAMES, (24, 40, 40, 24), (32, 16, 16, 32), strict=True)))
def test_a_head_of_several_programs(monkeypatch, name, size, block):
    """Its weights at hand as a whole, and streamed; and the batch in two launches."""
    cut = Tiles(tile=16, rows=8, slices=-(-size // 16), block=block, group=8, waits=True)
    monkeypatch.setattr(persistent, "tiles", lambda *sizes: cut)
    for reset in (False, True):
        assert _error(_case(name, 1, size, batch=9 if reset else 3, time=3, reset=reset)) < 1e-5


@pytest.mark.skipif(PLACE == "cuda", reason="looks into the interpreter")
@pytest.mark.parametrize("name", ["slstm-sigmoid", "lstm"])
@pytest.mark.parametrize("block", [32, 16])
def test_all_steps_in_one_launch_where_programs_wait(monkeypatch, name, block):
    """The first of two programs has all units and the second has none, so that neither has to wait for the other."""
    from exgate.ops import triton_recurrence

    def number(x) -> int:  # a backward launch counts in Python's numbers, a forward one in tensors
        return x if isinstance(x, int) else int(x.handle.data[0])

    met = []
    monkeypatch.setattr(triton_recurrence, "_meet", lambda arrived, goal: met.append(number(goal)))
    monkeypatch.setattr(gpu, "one_by_one", lambda: False)
    cut = Tiles(tile=32, rows=8, slices=2, block=block, group=8, waits=True)
    monkeypatch.setattr(persistent, "tiles", lambda *sizes: cut)
    assert _error(_case(name, 1, 24, batch=3, time=4, reset=True)) < 1e-5
    assert met == 4 * [2, 4, 6]  # by each program, forward and backward


def test_a_head_of_several_programs_in_half_precision(monkeypatch):
    cut = Tiles(tile=16, rows=8, slices=2, block=32, group=8, waits=True)
    monkeypatch.setattr(persistent, "tiles", lambda *sizes: cut)
    assert _error(_case("slstm-sigmoid", 2, 24, torch.bfloat16, batch=2, time=4)) < 2e-2


def test_the_steps_of_a_split_sequence_are_those_of_the_whole_in_bfloat16():
    """The state holds the h that y is rounded to, so that nothing tells where a sequence was cut."""
    case = _case("slstm-sigmoid", 1, 8, torch.bfloat16, batch=2, time=5)
    with ground("triton"), torch.no_grad():
        x, r = case.sequences[0].to(PLACE), case.weights[0].to(PLACE)
        start = map_state(lambda part: part.to(PLACE), case.state)
        whole, last = slstm(x, r, start, backend="triton")
        first, state = slstm(x[:, :2], r, start, backend="triton")
        second, end = slstm(x[:, 2:], r, state, backend="triton")
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert all(torch.equal(a, b) for a, b in zip(end, last, strict=True))


@pytest.mark.parametrize("device", [gpu.SM80, gpu.SM90, gpu.GFX942], ids=lambda d: str(d.arch))
@pytest.mark.parametrize("number", [2, 4, 12])
def test_what_a_cut_needs_fits(device, number):
    if device.kind == "hip" and number == 12:
        return  # float32 in three products is for tensor cores of NVIDIA
    for size in (*range(1, 130), 192, 256, 384, 512, 768, 1024, 2048, 4096):
        for heads, batch in ((1, 1), (1, 500), (4, 16), (12, 64), (64, 2)):
            cut = tiles(batch, heads, size, number, device)
            weights = number * 4 * cut.tile * cut.block * (1 if cut.block >= size else 3)
            assert weights < device.shared
            assert cut.tile * cut.slices >= size > cut.tile * (cut.slices - 1)
            assert cut.block >= 16
            assert cut.slices == 1 or cut.group % cut.rows == 0
            if cut.waits:  # all programs of a launch run at once
                assert heads * cut.slices * (cut.group // cut.rows) <= device.processors


def test_cuts_of_common_calls():
    """bfloat16 on an H100, 16 sequences of width 768."""
    cuts = {size: tiles(16, 768 // size, size, 2, gpu.SM90) for size in (16, 64, 128, 192, 768)}
    assert {size: (c.tile, c.slices, c.block, c.warps()) for size, c in cuts.items()} == {
        16: (16, 1, 16, 1),
        64: (64, 1, 64, 4),
        128: (128, 1, 128, 8),
        192: (16, 12, 256, 8),
        768: (16, 48, 1024, 8),
    }
    assert min(cuts[192].group, cuts[768].group) >= 16  # one launch


def _record(size: int, steps: int, batch: int = 16, grad: bool = True) -> list[gpu.Launch]:
    x = torch.zeros(batch, steps, 4, 768 // size, size, dtype=torch.bfloat16, requires_grad=grad)
    r = torch.zeros(4, 768 // size, size, size, requires_grad=grad)
    with gpu.recording(gpu.SM90) as launches:
        y, state = slstm(x, r, backend="triton")
        if grad:
            (y.sum() + state.h.sum()).backward()
            assert (x.grad.dtype, r.grad.dtype) == (torch.bfloat16, torch.float32)
    return launches


@pytest.mark.parametrize(("size", "waits"), [(64, False), (192, True)])
def test_one_launch_each_way_whatever_the_length(size, waits):
    launches = _record(size, steps=5)
    assert [launch.kernel.fn.__name__ for launch in launches] == ["forward", "backward"]
    for launch in launches:
        assert launch.arguments[-2:] == (0, 5)
        assert launch.constants["MEETS"] == waits == ("launch_cooperative_grid" in launch.options)


def test_a_step_without_gradients_is_one_launch_that_keeps_nothing():
    for size in (64, 768):
        (launch,) = _record(size, steps=1, grad=False)
        given = dict(zip(launch.kernel.arg_names, launch.arguments, strict=False))
        assert given["kept"] is given["arrived"] is None
        assert not launch.constants["MEETS"]


def test_more_sequences_than_run_at_once_are_several_launches():
    launches = _record(768, steps=2, batch=48, grad=False)
    assert [launch.arguments[-3] for launch in launches] == [0, 16, 32]
    assert all(launch.grid[0] * launch.grid[1] * launch.grid[2] <= gpu.SM90.processors for launch in launches)


@pytest.mark.parametrize(
    ("version", "device", "stages"), [("3.7.1", gpu.SM90, 1), ("3.7.1", gpu.SM80, 2), ("3.9.0", gpu.SM90, 2)]
)
def test_products_of_tf32_are_pipelined_where_that_is_safe(version, device, stages, monkeypatch):
    """On Hopper Triton before 3.9 writes registers that a product under way still reads."""
    import triton

    monkeypatch.setattr(triton, "__version__", version)
    with gpu.recording(device) as launches:
        gpu.launch(None, (1,), torch.zeros(1), PRECISION="tf32")
        gpu.launch(None, (1,), torch.zeros(1), PRECISION="tf32x3")
    assert [launch.options["num_stages"] for launch in launches] == [stages, 2]


def test_refusals():
    x, r = torch.zeros(1, 2, 4, 1, 3), torch.zeros(4, 1, 3, 3)
    with pytest.raises(ValueError, match="slstm: backend 'triton' cannot take this call: a tensor is on cpu"):
        slstm(x, r, backend="triton")
    with gpu.recording(gpu.SM90), pytest.raises(ValueError, match="an input is float64"):
        lstm(x.double(), r, backend="triton")


def test_opcheck():
    x, r = torch.randn(2, 3, 4, 2, 3, device=PLACE), torch.randn(4, 2, 3, 3, device=PLACE)
    state = [torch.rand(2, 2, 3, device=PLACE, requires_grad=True) for _ in range(3)]
    with ground("triton"):
        op = torch.ops.exgate.recurrence_triton
        m = torch.zeros(2, 2, 3, device=PLACE)
        leaves = (x.requires_grad_(), r.requires_grad_())
        torch.library.opcheck(op, (*leaves, *state, m, None, None, "slstm", True))
