"""The dense product against PyTorch's own, the block-diagonal one against a dense one."""

import pytest
import torch

from exgate.layers.linear import HeadwiseLinear, Linear, joint


@pytest.mark.parametrize("shape", [(100, 24), (5, 40, 24), (3, 24), (40, 5, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_that_of_pytorch(shape, bias):
    layer, x = Linear(24, 36, bias=bias), torch.randn(shape, requires_grad=True)
    if len(shape) == 3:
        x = x.transpose(0, 1)  # any strides
    leaves = (x, *layer.parameters())
    ours, theirs = layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    dy = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, leaves, dy), torch.autograd.grad(theirs, leaves, dy), strict=True):
        torch.testing.assert_close(a, b)


def test_linear_is_differentiable_twice():
    layer, x = Linear(24, 36), torch.randn(100, 24, requires_grad=True)
    found = []
    for y in (layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias)):
        (dx,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad((dx**2).sum(), (x, layer.weight)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_linear_under_function_transforms():
    layer, x = Linear(24, 36), torch.randn(2, 100, 24)
    torch.testing.assert_close(torch.func.vmap(layer)(x), layer(x))
    gradient = torch.func.grad(lambda x: layer(x).square().sum())(x)
    (wanted,) = torch.autograd.grad(layer(y := x.clone().requires_grad_()).square().sum(), y)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_linear_in_other_types(kind):
    layer, x = Linear(24, 36, dtype=kind), torch.randn(100, 24, dtype=kind)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("adapted", [False, True])
def test_joint_is_each_linear_of_the_parts_side_by_side(steps, adapted):
    parts = tuple(torch.randn(2, steps, size, requires_grad=True) for size in (3, 5))
    linears = [Linear(8, 2), Linear(8, 4)]
    if adapted:
        linears[1] = torch.nn.Sequential(linears[1], torch.nn.Tanh())  # has no weight of its own
    found, whole = joint(parts, *linears), torch.cat(parts, -1)
    leaves = [*parts, *(weight for linear in linears for weight in linear.parameters())]
    for y, linear in zip(found, linears, strict=True):
        torch.testing.assert_close(y, linear(whole))
    losses = (sum((y**2).sum() for y in ys) for ys in (found, [linear(whole) for linear in linears]))
    for ours, theirs in zip(*(torch.autograd.grad(loss, leaves) for loss in losses), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_is_a_block_diagonal_product():
    layer, x = HeadwiseLinear(12, 3, bias=True), torch.randn(2, 5, 12)
    with torch.no_grad():
        layer.bias.normal_()
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T + layer.bias)


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"dim=10 is not a multiple of blocks=4"):
        HeadwiseLinear(10, 4)
