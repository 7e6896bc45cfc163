"""The kernels of the cross-entropy against the same in float64: caps, ignored targets, several blocks, short types."""

import pytest
import torch

from exgate.models import cross_entropy as module
from exgate.models.cross_entropy import cross_entropy
from exgate.ops import gpu
from tests.ops.contract import error, ground

pytestmark = [pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed"), pytest.mark.usefixtures("place")]
N, D, V = 7, 6, 45


def _run(x, weight, targets, **options):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    nll = cross_entropy(x, weight, targets, reduction="none", **options)
    upstream = torch.linspace(-1, 2, N, dtype=nll.dtype)
    return [nll.detach(), *torch.autograd.grad(nll, (x, weight), upstream)]


def _case(kind=torch.float32):
    targets = torch.randint(V, (N,))
    targets[2] = module.IGNORED
    return (3 * torch.randn(N, D)).to(kind), torch.randn(V, D).to(kind), targets


@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize("block", [16, 64])
def test_agrees_with_float64(block, soft_cap, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    x, weight, targets = _case()
    with ground("triton"):
        with gpu.recording(gpu.SM90) as launches:
            _run(x, weight, targets, soft_cap=soft_cap, rows=3)
        found = _run(x, weight, targets, soft_cap=soft_cap, rows=3)
    wanted = _run(x.double(), weight.double(), targets, soft_cap=soft_cap)
    assert error(found, wanted) < 1e-5
    assert found[0][2] == 0
    assert not found[1][2].any()
    assert [launch.kernel.__name__ for launch in launches] == ["losses"] * 3 + ["gradients"] * 3


def test_targets_that_lie_apart():
    """Every second of a row, as labels are cut out of a larger tensor."""
    x, weight, targets = _case()
    apart = torch.stack([targets, targets.flip(0)], 1)[:, 0]
    with ground("triton"):
        assert error(_run(x, weight, apart), _run(x, weight, targets)) == 0


def test_short_types():
    x, weight, targets = _case(torch.bfloat16)
    with ground("triton"):
        found = _run(x, weight, targets)
    assert [part.dtype for part in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert error(found, _run(x.double(), weight.double(), targets)) < 2e-2


def test_extreme_logits_and_targets_that_do_not_exist(monkeypatch):
    monkeypatch.setattr(module, "_check", lambda *args: None)  # as on a GPU
    x, weight, targets = _case()
    targets[3] = V
    with ground("triton"):
        nll, *gradients = _run(1000 * x, weight, targets)
    assert nll.isnan().tolist() == [place == 3 for place in range(N)]
    assert all(part.isfinite().all() for part in gradients)
