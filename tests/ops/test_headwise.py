"""The block-diagonal product: the definition, gradients, and any strides, in every backend."""

import pytest
import torch

from exgate import ops
from exgate.layers import HeadwiseLinear
from exgate.ops import native

BACKENDS = ["eager", pytest.param("cpu", marks=pytest.mark.skipif(native.absent() is not None, reason="no kernels"))]
SHAPES = [(1, 2), (7, 2), (1, 4), (5, 4), (44, 4)]


def _definition(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (torch.block_diag(*weight) @ x[..., None])[..., 0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("blocks", "size"), SHAPES)
def test_the_product_and_its_gradients(backend, blocks, size):
    weight = torch.randn(blocks, size, size, requires_grad=True)
    wide = torch.randn(3, 301, 2 * blocks * size, requires_grad=True)
    for x in (wide.chunk(2, -1)[1], wide.transpose(0, 1)[..., 1::2], wide[0, :, : blocks * size]):
        dy = torch.randn(x.shape)
        found = [ops.headwise(x, weight, backend=backend)]
        found += torch.autograd.grad(found, (wide, weight), dy)
        exact = _definition(x.double(), weight.double())
        wanted = [exact, *torch.autograd.grad(exact, (wide, weight), dy.double())]
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == torch.float32
            limit = 4e-6 if backend == "eager" else 2e-6  # it sums in the order of PyTorch's library
            assert (one - other).abs().max() <= limit * (1 + other.abs().max())


@pytest.mark.skipif(native.absent() is not None, reason="no kernels")
def test_any_number_of_threads_gives_the_same_bits():
    x, weight, before = torch.randn(1000, 84, requires_grad=True), torch.randn(21, 4, 4, requires_grad=True), None
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.headwise(x, weight, backend="cpu")
            found = (y, *torch.autograd.grad(y.square().sum(), (x, weight)))
            assert before is None or all(map(torch.equal, found, before))
            before = found
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_finite_stays_in_its_row_and_block(backend):
    x = torch.ones(2, 3, 8)
    x[0, 1, 5] = torch.nan
    bad = ops.headwise(x, torch.randn(2, 4, 4), backend=backend).isnan()
    assert bad[0, 1, 4:].all()
    assert bad.sum() == {"cpu": 4, "eager": 8}[backend]  # eager multiplies it with the zeros of its neighbour


@pytest.mark.skipif(native.absent() is not None, reason="no kernels")
def test_what_the_kernel_refuses():
    weight = torch.randn(3, 4, 4)
    for x, reason in (
        (torch.randn(5, 1, 12), "a single step"),
        (torch.randn(5, 12).double(), "float32 alone"),
        (torch.randn(5, 12).bfloat16(), "float32 alone"),
    ):
        with pytest.raises(ValueError, match=reason):
            ops.headwise(x, weight, backend="cpu")
    with pytest.raises(ValueError, match="blocks are of 2 or 4, and weight has 8"):
        ops.headwise(torch.randn(5, 24), torch.randn(3, 8, 8), backend="cpu")
    layer = HeadwiseLinear(24, 3)
    assert layer(torch.randn(5, 24)).shape == (5, 24)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"weight has shape \(3, 4, 4\) and x \(5, 8\)"):
        ops.headwise(torch.randn(5, 8), torch.randn(3, 4, 4))
    with pytest.raises(ValueError, match=r"weight should be \(N, I, I\)"):
        ops.headwise(torch.randn(5, 12), torch.randn(3, 4, 2))


@pytest.mark.skipif(native.absent() is not None, reason="no kernels")
def test_opcheck():
    arguments = torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.exgate.headwise_cpu, arguments)
