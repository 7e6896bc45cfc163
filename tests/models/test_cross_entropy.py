"""Chunked cross-entropy against torch's on whole logits: values, gradients, memory, compile, autocast."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from exgate.models.cross_entropy import backward_chunks, cross_entropy, forward_chunks


def case(n=(3, 5), dim=8, vocabulary=11, dtype=torch.float64, ignored=True):
    x = torch.randn(*n, dim, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, dim, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocabulary, n)
    if ignored:
        targets.view(-1)[::4] = -100
    return x, weight, targets


def whole(x, weight, targets, soft_cap, reduction):
    logits = x @ weight.T
    logits = soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction=reduction)


@pytest.mark.parametrize("rows", [1, 4, 100, None])
@pytest.mark.parametrize("soft_cap", [0.0, 2.0])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_agrees_with_torchs(reduction, soft_cap, rows):
    x, weight, targets = case()
    ours = cross_entropy(x, weight, targets, soft_cap=soft_cap, reduction=reduction, rows=rows)
    theirs = whole(x, weight, targets, soft_cap, reduction).view(ours.shape)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)  # any gradient from above, of a different size for each token
    for one, other in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradcheck():
    x, weight, targets = case((5,), 3, 4)
    assert torch.autograd.gradcheck(
        lambda x, w: cross_entropy(x, w, targets, soft_cap=3.0, reduction="none", rows=2), (x, weight)
    )


def test_extreme_logits_stay_finite():
    x, weight, targets = case(dtype=torch.float32)
    loss = cross_entropy(1000 * x, weight, targets)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()


def test_nothing_to_learn_from_is_zero():
    x, weight, targets = case()
    loss = cross_entropy(x, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()
    assert not weight.grad.any()


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("soft_cap", [0.0, 30.0])
def test_never_holds_all_logits(soft_cap):
    x, weight, targets = case((64,), 4, 50, torch.float32)
    options = (soft_cap, torch.float32, 8)
    with torch.no_grad(), Largest() as forward:
        _, lse = forward_chunks(x, weight, targets, *options)
    with torch.no_grad(), Largest() as backward:
        backward_chunks(torch.ones(64), x, weight, targets, lse, *options)
    assert forward.elements == backward.elements == 8 * 50


def test_rows_are_chosen_by_the_vocabulary(monkeypatch):
    x, weight, targets = case((7,), 4, 50, torch.float32)
    chosen = []
    import exgate.models.cross_entropy as module

    original = module._forward
    monkeypatch.setattr(module, "_forward", lambda *args: chosen.append(args[-1]) or original(*args))
    cross_entropy(x, weight, targets)
    assert chosen == [2**22 // 50]


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_under_autocast(reduction):
    x, weight, targets = case((4, 16), 32, 40, torch.float32)
    exact = cross_entropy(x, weight, targets, reduction=reduction, rows=8)
    upstream = torch.rand_like(exact)
    wanted = torch.autograd.grad(exact, (x, weight), upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = cross_entropy(x, weight, targets, reduction=reduction, rows=8)
        logits = F.linear(x, weight)
        peer = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction).view(exact.shape)
    got = torch.autograd.grad(mixed, (x, weight), upstream)
    assert mixed.dtype == got[0].dtype == got[1].dtype == torch.float32
    assert not torch.equal(mixed, exact)  # the products were in bfloat16
    torch.testing.assert_close(mixed, peer)
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


def test_bfloat16_sums_in_float32():
    x, weight, targets = case((2000,), 16, 8, torch.bfloat16, ignored=False)
    loss = cross_entropy(x, weight, targets, reduction="sum", rows=10)
    loss.backward()
    x64, w64 = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    exact = whole(x64, w64, targets, 0.0, "sum")
    exact.backward()
    assert loss.dtype == torch.float32
    assert weight.grad.dtype == x.grad.dtype == torch.bfloat16
    assert (weight.grad.double() - w64.grad).norm() < 0.01 * w64.grad.norm()


@pytest.mark.parametrize("soft_cap", [0.0, 5.0])
def test_compiles(soft_cap):
    torch.compiler.reset()
    x, weight, targets = case()

    def run(x, weight):
        return cross_entropy(torch.tanh(x), weight, targets, soft_cap=soft_cap, rows=4)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            pairs = zip(
                torch.autograd.grad(compiled(x, weight), (x, weight)),
                torch.autograd.grad(run(x, weight), (x, weight)),
                strict=True,
            )
        for one, other in pairs:
            torch.testing.assert_close(one, other)


def test_custom_ops_are_registered_rightly():
    x, weight, targets = case((15,), dtype=torch.float32)
    torch.library.opcheck(torch.ops.exgate.cross_entropy.default, (x, weight, targets, 3.0, torch.float32, 4))


def test_errors():
    x, weight, targets = case()
    with pytest.raises(ValueError, match=r"targets have shape \(3, 4\), but x has \(3, 5, 8\)"):
        cross_entropy(x, weight, targets[:, :4])
    with pytest.raises(ValueError, match=r"weight has shape \(11, 7\); it should be \(V, D\) with D=8"):
        cross_entropy(x, weight[:, :7], targets)
    with pytest.raises(ValueError, match="reduction is 'max'"):
        cross_entropy(x, weight, targets, reduction="max")
    with pytest.raises(ValueError, match=r"targets go from 0 to 11, but the vocabulary has 11 entries"):
        cross_entropy(x, weight, targets.masked_fill(targets == -100, 11))
