"""Products with weights in few bits: exact up to the rounding that is promised."""

import pytest
import torch

from exgate import ops
from exgate.ops import native

SHAPES = [(16, 5), (33, 7), (70, 64), (512, 100), (2071, 9)]
BACKENDS = ["eager", pytest.param("cpu", marks=pytest.mark.skipif(native.absent() is not None, reason="no kernels"))]


def _operands(stored: torch.dtype, ins: int, outs: int):
    bias = torch.randn(outs)
    if stored == torch.int8:
        return torch.randint(-127, 128, (outs, ins), dtype=stored), torch.rand(outs) / 100, bias
    return torch.randn(outs, ins).to(stored), None, bias


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("ins", "outs"), SHAPES)
def test_the_product(backend, stored, ins, outs):
    weight, scale, bias = _operands(stored, ins, outs)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8):
        x = torch.randn(rows, 1, ins)
        wanted = x.double() @ weight.double().T * (1 if scale is None else scale) + bias
        found = ops.linear(x, weight, scale, bias, backend=backend)
        assert found.shape == wanted.shape
        # The kernel rounds x to 15 bits of its largest number where weights are whole numbers.
        limit = 1e-3 if backend == "cpu" and stored == torch.int8 else 2e-6
        assert (found - wanted).abs().max() <= limit * wanted.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.int8])
def test_what_is_not_finite_is_not_hidden(backend, stored):
    weight, scale, bias = _operands(stored, 40, 3)
    for odd in (torch.nan, torch.inf):
        x = torch.randn(2, 40)
        x[0, 7] = odd
        found = ops.linear(x, weight, scale, bias, backend=backend)
        assert not found[0].isfinite().any()
        assert found[1].isfinite().all()


@pytest.mark.skipif(native.absent() is not None, reason="no kernels")
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int8])
def test_any_number_of_threads_gives_the_same_bits(stored):
    weight, scale, bias = _operands(stored, 1024, 1027)
    x, before = torch.randn(3, 1024), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ops.linear(x, weight, scale, bias, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_gradients_and_many_rows_go_to_the_plain_product():
    weight, scale, bias = _operands(torch.int8, 20, 6)
    x = torch.randn(9, 20, requires_grad=True)
    ops.linear(x, weight, scale, bias).sum().backward()
    torch.testing.assert_close(x.grad, (weight * scale[:, None]).sum(0).expand(9, 20))
    if native.absent() is None:
        with pytest.raises(ValueError, match="more than 8 rows"):
            ops.linear(x, weight, scale, bias, backend="cpu")


def test_mistakes_are_told():
    weight = torch.ones(3, 4, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"weight has I=4 in shape \(3, 4\) = \(O, I\), but x has I=5"):
        ops.linear(torch.randn(2, 5), weight, torch.ones(3))
    with pytest.raises(
        ValueError, match=r"weight has type torch.int8; it should be a float type, or int8 with a scale"
    ):
        ops.linear(torch.randn(2, 4), weight)
    with pytest.raises(ValueError, match="scale has O=2"):
        ops.linear(torch.randn(2, 4), weight, torch.ones(2))


@pytest.mark.skipif(native.absent() is not None, reason="no kernels")
def test_opcheck():
    torch.library.opcheck(torch.ops.exgate.linear_cpu, (torch.randn(2, 1, 8), torch.randn(3, 8).bfloat16(), None, None))
