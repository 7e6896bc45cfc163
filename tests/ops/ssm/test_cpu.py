"""The kernel of the selective scan beyond the sizes of the laws: several tiles, long segments, threads, memory."""

import pytest
import torch

from exgate.ops import native, ssm
from exgate.ops.ssm import cpu
from tests.ops.contract import SPECS, Case, error

pytestmark = pytest.mark.skipif(native.absent() is not None, reason="no compiled kernels here")


def _case(batch: int = 2, time: int = 75, sizes: tuple[int, int] = (37, 5), **options) -> Case:
    spec = SPECS["ssm"]
    wide = type(spec)(**{**spec.__dict__, "sizes": (sizes,)})
    return Case.random(wide, torch.float32, batch=batch, time=time, **options)


@pytest.mark.parametrize("sizes", [(37, 5), (64, 16), (3, 40)])
def test_tiles_and_what_is_left_of_them(sizes):
    case = _case(sizes=sizes, reset=True)
    assert error(case.run("cpu"), case.to(torch.float64).run("reference")) < 1e-5


def test_a_chunk_longer_than_a_segment_may_be():
    case = _case(time=cpu.LONGEST + 70, sizes=(5, 3))
    assert error(case.run("cpu", chunk_size=10_000), case.run("eager")) < 1e-5


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    case, before = _case(batch=3, reset=True), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = case.run("cpu")
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(case.run("cpu"), wanted, strict=True))
    finally:
        torch.set_num_threads(before)


def test_one_state_per_segment_is_kept():
    u, b = torch.rand(2, 100, 8), torch.rand(2, 100, 3)
    arguments = (u, u, -torch.rand(8, 3), b, b, None, torch.zeros(2, 8, 3), None, 32)
    assert torch.ops.exgate.ssm_cpu(*arguments, True)[2].shape == (2, 4, 3, 8)
    assert torch.ops.exgate.ssm_cpu(*arguments, False)[2].numel() == 0


def test_float64_is_left_to_the_others():
    u, b = torch.rand(1, 4, 2, dtype=torch.float64), torch.rand(1, 4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="ssm: backend 'cpu' cannot take this call: the kernels compute in float32"):
        ssm(u, u, -torch.rand(2, 3).double(), b, b, backend="cpu")
    assert ssm(u, u, -torch.rand(2, 3).double(), b, b)[1].h.dtype == torch.float64
