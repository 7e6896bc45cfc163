"""Learning rates, to exact values, and AdamW's state as named tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from exgate.train import optim


def rates(*arguments, **options) -> list[float]:
    factor = optim.schedule(*arguments, **options)
    return [factor(step) for step in range(options["steps"])]


def test_cosine():
    c = math.sqrt(0.5)  # cos(pi / 4)
    fall = [1.0, 0.1 + 0.9 * (1 + c) / 2, 0.55, 0.1 + 0.9 * (1 - c) / 2, 0.1]
    assert rates("cosine", steps=9, warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, *fall])
    assert rates("cosine", steps=3, min_ratio=0.0) == pytest.approx([1.0, 0.5, 0.0])


def test_linear():
    assert rates("linear", steps=7, warmup=2, min_ratio=0.2) == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_constant():
    assert rates("constant", steps=5, warmup=2) == [0.5, 1.0, 1.0, 1.0, 1.0]


def test_warmup_stable_decay():
    assert rates("wsd", steps=10, warmup=2, decay=0.3, min_ratio=0.1) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 1.0, 0.55, 0.1]
    )
    assert rates("wsd", steps=4, decay=0.0) == [1.0] * 4


def test_short_falls_and_steps_after_the_end():
    assert rates("cosine", steps=3, warmup=3) == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates("linear", steps=3, warmup=2) == pytest.approx([0.5, 1.0, 0.1])
    assert optim.schedule("cosine", steps=5, min_ratio=0.2)(50) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("cosin", {"steps": 5}, "no schedule 'cosin'; choose one of cosine, linear, constant, wsd"),
        (
            "cosine",
            {"steps": 5, "warmup": 6},
            "6 steps of warm-up in a run of 5; give a warm-up of 0 to 5 .*--optim.warmup",
        ),
        ("cosine", {"steps": -3, "warmup": 50}, "steps=-3; a run should have at least 1"),
        ("cosine", {"steps": 5, "min_ratio": 2.0}, "min_ratio=2.0"),
        ("wsd", {"steps": 10, "warmup": 8, "decay": 0.5}, "8 steps of warm-up and 5 of decay"),
    ],
)
def test_schedules_that_cannot_be(name, options, words):
    with pytest.raises(ValueError, match=words):
        optim.schedule(name, **options)


def test_adamw_groups():
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "weight_decay": 0.5}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = optim.adamw([*groups, {"params": [], "weight_decay": 1.0}], lr=0.1, betas=(0.8, 0.9), eps=1e-3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    # One step by hand: with bias correction the first step is lr g / (|g| + eps) after the decay.
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    optimizer.step()
    step = 0.1 * 0.25 / (0.25 + 1e-3)
    torch.testing.assert_close(model.weight.detach(), before["weight"] * (1 - 0.1 * 0.5) - step)
    torch.testing.assert_close(model.bias.detach(), before["bias"] - step)
    with pytest.raises(ValueError, match="lr=-1"):
        optim.adamw(groups, lr=-1)
    with pytest.raises(ValueError, match="betas="):
        optim.adamw(groups, lr=1, betas=(0.9, 1.0))
    for decay in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"weight_decay={decay}; it should be 0 or more"):
            optim.adamw([{"params": [model.weight], "weight_decay": decay}], lr=1)
    with pytest.raises(ValueError, match="no parameters"):
        optim.adamw([{"params": []}], lr=1)


def test_state_goes_through_named_tensors():
    def trained(steps, state=None, weights=None):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        torch.manual_seed(1)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        if weights:
            model.load_state_dict(weights)
        optimizer = optim.adamw([{"params": list(model.parameters()), "weight_decay": 0.1}], lr=0.1)
        if state:
            optim.load_state_tensors(optimizer, model, state)
        for step in steps:
            optimizer.zero_grad()
            model(torch.full((2, 3), float(step))).square().sum().backward()
            optimizer.step()
        return model, optimizer

    whole, _ = trained(range(6))
    half, optimizer = trained(range(3))
    state = {name: tensor.clone() for name, tensor in optim.state_tensors(optimizer, half).items()}
    assert set(state) == {f"{k}.{n}" for k in ("step", "exp_avg", "exp_avg_sq") for n, _ in half.named_parameters()}
    other, _ = trained(range(3, 6), state, half.state_dict())
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"exp_avg.2.weight' of shape"):
        optim.load_state_tensors(optimizer, half, {"exp_avg.2.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="fits no parameter"):
        optim.load_state_tensors(optimizer, half, {"exp_avg.0.weight": torch.zeros(7, 7)})
