"""The convolution on the GPU, where the laws do not reach: sizes that cross tiles, layouts, and what is launched."""

import pytest
import torch

from exgate.ops import ConvState, conv, gpu
from exgate.ops.conv import triton
from tests.ops.contract import PLACE, Case, error, ground
from tests.ops.contract import SPECS as LAWS

pytestmark = pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")
WIDE = (150, 6)  # two strips of channels, and tiles of 4 steps


@pytest.mark.parametrize(("time", "batch"), [(3, 1), (21, 2)])
def test_sizes_that_cross_tiles(time, batch):
    case = Case.random(LAWS["conv-silu"], torch.float32, time=time, batch=batch, reset=time > 3, seed=1)
    case.sequences = (torch.randn(batch, time, WIDE[0]),)
    case.weights = (torch.randn(WIDE), torch.randn(WIDE[0]))
    case.state = ConvState(torch.randn(batch, WIDE[1] - 1, WIDE[0]))
    with ground("triton"):
        assert error(case.run("triton"), case.to(torch.float64).run("reference")) < 1e-5


def test_many_tiles_in_one_program(monkeypatch):
    monkeypatch.setattr(triton, "share", lambda *sizes: 3)
    case = Case.random(LAWS["conv-silu"], torch.float32, time=200, batch=1, reset=True, seed=2)
    with ground("triton"):
        assert error(case.run("triton"), case.to(torch.float64).run("reference")) < 1e-5


@pytest.mark.usefixtures("place")
def test_half_of_a_projection_is_not_copied():
    """What a layer passes: every second block of channels of a product, in bfloat16 as are its weights."""
    both, weight = torch.randn(2, 9, 12).bfloat16(), torch.randn(6, 4).bfloat16().requires_grad_()
    x = both[..., :6].requires_grad_()
    with ground("triton"):
        with gpu.recording(gpu.SM90) as launches:
            conv(x, weight, backend="triton")
        y, _ = conv(x, weight, activation="silu", backend="triton")
        gradients = torch.autograd.grad(y.float().square().sum(), (x, weight))
    assert launches[0].arguments[0].data_ptr() == both.data_ptr()
    assert y.dtype == gradients[1].dtype == torch.bfloat16
    exact = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    wanted, _ = conv(*exact, activation="silu")
    wanted = torch.autograd.grad(wanted.square().sum(), exact)
    assert error(list(gradients), list(wanted)) < 2e-2


@pytest.mark.usefixtures("place")
def test_nothing_foreign_reaches_a_document():
    x, reset = torch.randn(1, 8, 3), torch.zeros(1, 8, dtype=torch.bool)
    x[:, :5], reset[:, 5] = torch.nan, True
    x.requires_grad_()
    with ground("triton"):
        y, state = conv(x, torch.randn(3, 4), reset=reset, activation="silu", backend="triton")
        (gradient,) = torch.autograd.grad(y[:, 5:].sum() + state.x.sum(), x)
    assert all(part.isfinite().all() for part in (y[:, 5:], state.x, gradient[:, 5:]))


@pytest.mark.usefixtures("place")
def test_long_kernels_are_refused():
    with ground("triton"), pytest.raises(ValueError, match="kernel=9 taps are more than 8"):
        conv(torch.randn(1, 2, 3), torch.randn(3, 9), backend="triton")


def test_other_activations_are_refused():
    with pytest.raises(ValueError, match="conv: activation is 'relu'; it should be None or 'silu'"):
        conv(torch.randn(1, 2, 3), torch.randn(3, 4), activation="relu")


def _launches(batch: int, time: int, dim: int = 512) -> list[gpu.Launch]:
    x = torch.empty(batch, time, dim, dtype=torch.bfloat16, requires_grad=True)
    with gpu.recording(gpu.SM90) as launches:
        conv(x, torch.empty(dim, 4), activation="silu", backend="triton")[0].sum().backward()
    return launches


def test_two_launches_and_no_constant_of_the_batch_or_the_length():
    few, many = _launches(1, 1), _launches(3, 1000)
    assert len(few) == len(many) == 2
    assert [launch.constants for launch in few] == [launch.constants for launch in many]
    assert [launch.grid[1] for launch in many] == [4, 4]


def test_tiles_are_whole_powers_of_two_and_programs_fill_the_device():
    for dim in (1, 16, 100, 5000):
        for taps in (1, 4, 8):
            rows, columns = triton.tile(dim, taps)
            assert rows * columns == (1024 if taps <= 4 else 512)
            assert columns <= 128
    assert triton.share(1, 10, 1, 132) == 1
    assert triton.share(64, 1000, 12, 132) == 16


def test_opcheck():
    case = Case.random(LAWS["conv-silu"], torch.float32, time=3, size=2, reset=True)
    leaves = [x.to(PLACE).clone().requires_grad_() for x in (*case.sequences, *case.weights, *case.state)]
    with ground("triton"):
        torch.library.opcheck(torch.ops.exgate.conv_triton, (*leaves, case.reset.to(PLACE), True))
