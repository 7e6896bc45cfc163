"""The norm of each head on the GPU against plain PyTorch in float64: values, gradients, types, and what is launched."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from exgate.layers import HeadNorm, LayerNorm, RMSNorm
from exgate.ops import gpu, headnorm
from exgate.ops.headnorm import triton
from tests.ops.contract import error, ground

pytestmark = [pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed"), pytest.mark.usefixtures("place")]


def _leaves(rows: tuple[int, ...], heads: tuple[int, ...], parts: int, kind=torch.float32) -> list[torch.Tensor]:
    """x and weight, with 1 part more the gate, with 3 parts more a skip connection, too."""
    x, weight = 3.0 + 2 * torch.randn(*rows, *heads), torch.randn(heads)
    gate, u, factor = (
        torch.randn(*rows, weight.numel()),
        torch.randn(*rows, weight.numel()),
        torch.randn(weight.numel()),
    )
    return [tensor.to(kind).requires_grad_() for tensor in (x, weight, gate, u, factor)[: 2 + parts]]


def _call(*leaves, **options) -> torch.Tensor:
    return headnorm(*leaves[:3], tuple(leaves[3:]) or None, **options)


def _run(leaves, backend: str, **options) -> list[torch.Tensor]:
    y = _call(*leaves, backend=backend, **options)
    direction = torch.randn(y.shape, generator=torch.Generator(y.device).manual_seed(0), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y.double() * direction).sum(), leaves)]


@pytest.mark.parametrize(("parts", "activation"), [(0, "sigmoid"), (1, "sigmoid"), (3, "silu")])
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize(
    ("rows", "heads"), [((2, 5), (3, 7)), ((1,), (2, 16)), ((70,), (1,)), ((70,), (24,)), ((2,), (1030,))]
)
def test_it_is_that_of_pytorch(rows, heads, rms, parts, activation):
    leaves = _leaves(rows, heads, parts)
    options = {"eps": 1e-3, "rms": rms, "offset": parts == 1, "activation": activation}
    exact = [x.detach().double().requires_grad_() for x in leaves]
    with ground("triton"):
        assert error(_run(leaves, "triton", **options), _run(exact, "eager", **options)) < 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_short_types(kind):
    leaves = _leaves((6,), (2, 32), 3, kind)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    with ground("triton"):
        found = _run(leaves, "triton")
    assert {x.dtype for x in found} == {kind}
    assert error(found, _run(exact, "eager")) < (1e-2 if kind == torch.bfloat16 else 2e-3)


def test_a_program_that_takes_several_tiles(monkeypatch):
    monkeypatch.setattr(gpu, "target", lambda device: gpu.Target("cuda", 90, 0, 1))
    leaves = _leaves((400,), (2, 5), 3)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    with ground("triton"):
        assert error(_run(leaves, "triton"), _run(exact, "eager")) < 1e-5


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy: 1 / 0 is inf, which is masked
def test_rows_beside_a_tile_add_nothing_without_eps():
    leaves = _leaves((3,), (2, 5), 3)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    with ground("triton"):
        assert error(_run(leaves, "triton", eps=0.0), _run(exact, "eager", eps=0.0)) < 1e-5


def test_a_mean_that_is_far_from_zero_costs_no_digits():
    x, weight = 100 + torch.randn(4, 1, 64), torch.ones(1, 64)
    with ground("triton"):
        y = headnorm(x, weight, backend="triton")
    assert error([y], [headnorm(x.double(), weight.double())]) < 3e-5


def test_the_type_is_the_wider_of_both():
    with ground("triton"):
        y = headnorm(torch.randn(2, 3, 4).bfloat16(), torch.randn(3, 4), torch.randn(2, 12), backend="triton")
    assert y.dtype == torch.float32
    assert y.shape == (2, 12)


@pytest.mark.parametrize(
    "build",
    [lambda: RMSNorm(12, offset=True), lambda: LayerNorm(12), lambda: HeadNorm(12, 3, rms=True)],
    ids=["RMSNorm", "LayerNorm", "HeadNorm"],
)
def test_the_layers_go_through_it(build):
    layer = build()
    x = torch.randn(2, 5, 3, 4) if isinstance(layer, HeadNorm) else torch.randn(2, 5, 12)
    wanted = layer(x)
    with ground("triton"):
        with gpu.recording(gpu.SM90) as launches:
            layer(x)
        torch.testing.assert_close(layer(x), wanted)
    assert len(launches) == 1


def _launches(rows: int, size: int) -> list[gpu.Launch]:
    leaves = _leaves((rows,), (4, size), 1)
    with gpu.recording(gpu.SM90) as launches:
        _call(*leaves, backend="triton").sum().backward()
    return launches


def test_no_constant_of_the_number_of_rows():
    few, many = _launches(1, 64), _launches(5000, 64)
    assert [launch.constants for launch in few] == [launch.constants for launch in many]
    assert [launch.grid for launch in few] == [(1, 4), (1, 4)]
    assert [launch.grid for launch in many] == [(313, 4), (313, 4)]


def test_tiles_and_programs():
    assert [triton.most(heads, warps, 132, False) for heads, warps in ((1, 16), (4, 2), (1000, 2))] == [132, 330, 1]
    assert triton.most(4, 2, 132, True) == 198
    for size in (1, 64, 100, 512, 4000, 8192):
        rows, columns, warps = triton.tile(size)
        assert size <= columns <= max(16, 2 * size)
        assert rows * columns == 512 * warps


def test_refusals():
    with ground("triton"), pytest.raises(ValueError, match="V=8193 is more than 8192"):
        headnorm(torch.randn(1, 8193), torch.randn(8193), backend="triton")
    with pytest.raises(ValueError, match=r"headnorm: weight has shape \(4, 3\) and x \(2, 3, 4\)"):
        headnorm(torch.randn(2, 3, 4), torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"headnorm: gate has shape \(2, 3, 4\); it should be \(2, 12\)"):
        headnorm(torch.randn(2, 3, 4), torch.randn(3, 4), torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"headnorm: skip\[1\] has shape \(4,\); it should be \(12,\) = \(H V,\)"):
        headnorm(torch.randn(2, 3, 4), torch.randn(3, 4), skip=(torch.randn(2, 12), torch.randn(4)))
    with pytest.raises(ValueError, match="headnorm: activation is 'relu'; it should be 'sigmoid' or 'silu'"):
        headnorm(torch.randn(2, 3, 4), torch.randn(3, 4), activation="relu")


@pytest.mark.parametrize("parts", [1, 3])
def test_opcheck_and_compile(parts):
    leaves = _leaves((3,), (2, 5), parts)
    with ground("triton"):
        given = *leaves, *[None] * (3 - parts), 1e-5, False, True, parts == 3
        torch.library.opcheck(torch.ops.exgate.headnorm_triton, given)
        compiled = torch.compile(lambda *x: _call(*x, backend="triton"), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*leaves), _call(*leaves))


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_checkpointing(parts):
    """Recomputation hands over the saved tensors once."""
    leaves = _leaves((3,), (2, 5), parts)
    with ground("triton"):
        y = checkpoint(lambda *parts: _call(*parts, backend="triton"), *leaves, use_reentrant=False)
        found = torch.autograd.grad(y.square().sum(), leaves)
        wanted = torch.autograd.grad(_call(*leaves, backend="triton").square().sum(), leaves)
    assert error(list(found), list(wanted)) == 0
