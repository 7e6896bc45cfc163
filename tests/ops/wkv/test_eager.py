"""WKV beside its definition as sums, at decays and keys that no exponential could hold, and whatever the chunk."""

import pytest
import torch

from exgate.ops import WKVState, wkv


def inputs(time: int, dim: int = 4, batch: int = 2):
    generator = torch.Generator().manual_seed(time)
    k, v = (torch.randn(batch, time, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    w, u = (torch.randn(dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return k, v, w.exp(), u


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_it_is_the_weighted_mean_of_the_paper(backend):
    k, v, w, u = inputs(40)
    y, state = wkv(k, v, w, u, backend=backend)
    for t in (0, 1, 31, 32, 39):
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        past, now = (k[:, :t] - age * w).exp(), (u + k[:, t]).exp()
        wanted = ((past * v[:, :t]).sum(1) + now * v[:, t]) / (past.sum(1) + now)
        torch.testing.assert_close(y[:, t], wanted)
    weights = (k - torch.arange(39, -1, -1, dtype=torch.float64)[:, None] * w).exp()
    torch.testing.assert_close(state.n * state.m.exp(), weights.sum(1))
    torch.testing.assert_close(state.c * state.m.exp(), (weights * v).sum(1))


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 7, 32, 36, 37, 38, 100])
def test_the_chunk_changes_nothing(chunk, reset):
    k, v, w, u = inputs(37)
    marks = torch.rand(2, 37, generator=torch.Generator().manual_seed(1)) < 0.1 if reset else None
    _, before = wkv(*inputs(3)[:2], w, u)
    h, l = before.c / before.n, before.n.log() + before.m
    results = []
    for size in (37, chunk):
        leaves = [x.clone().requires_grad_() for x in (k, v, w, u, h, l)]
        y, *last, m = torch.ops.exgate.wkv_eager(*leaves, before.m, marks, size, True)[:4]
        total = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in (y, *last))
        results.append([y, *last, m, *torch.autograd.grad(total, leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("decay", [-50.0, -5.0, 3.0, 50.0])
def test_finite_at_any_decay(decay, backend):
    k, v, _, u = inputs(70)
    leaves = [torch.where(k > 0, 50.0, -50.0), v, torch.full((4,), decay).exp(), 50 * u.sign()]
    leaves = [x.float().requires_grad_() for x in leaves]
    y, state = wkv(*leaves, backend=backend)
    gradients = torch.autograd.grad(y.sum() + (state.c / state.n).sum(), leaves)
    assert all(bool(x.isfinite().all()) for x in (y, *state, *gradients))
    wide, _ = wkv(*(x.detach().double() for x in leaves), backend="reference")
    torch.testing.assert_close(y.double(), wide, rtol=1e-4, atol=1e-4)


def test_an_empty_state_in_another_form():
    """transformers starts its maximum at -1e30 or -1e38: nothing of it is seen."""
    k, v, w, u = inputs(40)
    empty = torch.zeros(2, 4, dtype=torch.float64)
    for time in (1, 40):
        y, _ = wkv(k[:, :time], v[:, :time], w, u, WKVState(empty, empty, empty - 1e30))
        torch.testing.assert_close(y, wkv(k[:, :time], v[:, :time], w, u)[0])


def test_shapes_are_checked():
    k, v, w, u = inputs(5)
    with pytest.raises(ValueError, match=r"wkv: v has T=4 in shape \(2, 4, 4\) = \(B, T, D\), but k has T=5"):
        wkv(k, v[:, :4], w, u)
    with pytest.raises(ValueError, match=r"wkv: w has D=3"):
        wkv(k, v, w[:3], u)
