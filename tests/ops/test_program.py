"""The instructions of program.cpp, each beside the same operation of PyTorch."""

import pytest
import torch
from torch.nn import functional as F

from exgate.ops import native, program
from exgate.ops.program import Function

pytestmark = pytest.mark.skipif(native.absent() is not None, reason="no compiled kernels here")
TORCH = {
    Function.COPY: torch.clone,
    Function.TANH: torch.tanh,
    Function.SIGMOID: torch.sigmoid,
    Function.SILU: F.silu,
    Function.GELU: F.gelu,
    Function.RELU: F.relu,
    Function.SQUARE: torch.square,
    Function.EXP: torch.exp,
    Function.SOFTPLUS: F.softplus,
    Function.ADD: torch.add,
    Function.SUBTRACT: torch.sub,
    Function.MULTIPLY: torch.mul,
    Function.DIVIDE: torch.div,
}


def test_every_function_has_its_like():
    assert set(TORCH) == set(Function)


def _partners(a: torch.Tensor) -> list[torch.Tensor]:
    return [a, a.new_tensor(2.5), *([a[..., :1], a[:1]] if a.dim() else [])]


@pytest.mark.parametrize("function", Function)
def test_elementwise(function):
    x = torch.randn(3, 4, 5, 70)
    views = [x, x[..., :37], x[:, :, 2, :1], x.permute(3, 1, 0, 2), x[::2, 1:, :, ::3], x[0, 0, 0], x[1, 2, 3, 4]]
    for a in views:
        for b in views[:1] if function < Function.ADD else _partners(a):
            wanted = TORCH[function](a) if function < Function.ADD else TORCH[function](a, b)
            for out in (torch.empty_like(wanted), torch.full((*wanted.shape, 2), torch.nan)[..., 0]):
                program.run(program.elementwise(function, out, a, None if function < Function.ADD else b))
                torch.testing.assert_close(out, wanted, rtol=2e-6, atol=1e-6)


def test_elementwise_refuses_what_it_cannot_do():
    x = torch.randn(2, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="more than four dimensions"):
        program.elementwise(Function.COPY, torch.empty_like(x), x.permute(4, 3, 2, 1, 0))
    with pytest.raises(ValueError, match=r"torch.float64, not float32"):
        program.elementwise(Function.COPY, x[0], x[0].double())


def test_relu_and_copy_keep_nan():
    x = torch.tensor([torch.nan, -1.0, 2.0])
    out = torch.empty(3)
    program.run(program.elementwise(Function.RELU, out, x))
    assert out[0].isnan()
    assert out[1:].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("shape", [(7,), (64,), (3, 37)])
def test_norms(shape):
    x, weight, bias = torch.randn(5, *shape) + 3, torch.randn(shape), torch.randn(shape)
    for w, b in ((None, None), (weight, None), (weight, bias)):
        out = torch.empty_like(x)
        program.run(program.norm(out, x, shape, w, b, 1e-5, mean=True))
        torch.testing.assert_close(out, F.layer_norm(x, shape, w, b, 1e-5), rtol=1e-5, atol=1e-5)
    program.run(program.norm(out, x, shape, weight, None, 1e-5, mean=False))
    torch.testing.assert_close(out, F.rms_norm(x, shape, weight, 1e-5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_embedding(kind):
    table, tokens = torch.randn(11, 33).to(kind), torch.tensor([[3], [0], [10]])
    rows, wide = torch.empty(3, 1, 33, dtype=kind), torch.empty(3, 1, 33)
    program.run(program.embedding(rows, table, tokens))
    assert torch.equal(rows, table[tokens])
    if kind == torch.bfloat16:
        program.run(program.widen(wide, rows))
        assert torch.equal(wide, rows.float())


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_product_in_groups_with_rows_anywhere(rows):
    x, weight, bias = torch.randn(rows, 3, 45), torch.randn(3, 9, 45), torch.randn(3, 9)
    out = torch.full((rows, 3, 11), torch.nan)[..., :9]
    program.run(program.linear(out.transpose(0, 1), x.transpose(0, 1), weight, None, bias))
    wanted = torch.einsum("rgi,goi->rgo", x.double(), weight.double()) + bias
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_program_is_its_instructions_in_order():
    x, y, z = torch.randn(20), torch.empty(20), torch.empty(20)
    instructions = [program.elementwise(Function.EXP, y, x), program.elementwise(Function.ADD, z, y, x)]
    program.run((program.Instruction * 2)(*instructions))
    torch.testing.assert_close(z, x.exp() + x, rtol=1e-6, atol=1e-6)
