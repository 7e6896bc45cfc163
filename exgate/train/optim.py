"""AdamW and the learning rate over a run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def adamw(
    groups: list[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over groups from `exgate.models.lm.parameter_groups`.

    Args:
        groups: each with its parameters and its own weight_decay; empty ones are left out.
        lr: peak learning rate; the loop multiplies it by a schedule.
    Raises:
        ValueError: a rate, beta, eps or weight decay is out of range, or there is nothing to train.
    """
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("optim: the model has no parameters to train")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"optim: lr={lr}; the learning rate should be a positive number")
    if not all(0 <= beta < 1 for beta in betas) or len(betas) != 2 or eps <= 0:
        raise ValueError(f"optim: betas={betas} should be two numbers in [0, 1), and eps={eps} positive")
    for decay in (group.get("weight_decay", 0.0) for group in groups):
        if not (math.isfinite(decay) and decay >= 0):
            raise ValueError(f"optim: weight_decay={decay}; it should be 0 or more")
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps, fused=True)


def schedule(
    name: str, *, steps: int, warmup: int = 0, min_ratio: float = 0.1, decay: float = 0.2
) -> Callable[[int], float]:
    """The factor of the peak learning rate at each step 0 .. steps - 1.

    Warm-up is linear, (step + 1) / warmup, and reaches 1 at step warmup - 1. After it, with p running from 0 to 1
    between step `warmup` and the last one:
        cosine:   min_ratio + (1 - min_ratio) (1 + cos(pi p)) / 2
        linear:   1 - (1 - min_ratio) p
        constant: 1
        wsd:      1, and over the last `decay` of all steps linearly down to min_ratio (warm-up, stable, decay)

    Args:
        min_ratio: the factor at the last step.
        decay: share of all steps in which wsd comes down.
    Raises:
        ValueError: unknown name (says which there are), or numbers out of range.
    """
    if name not in SCHEDULES:
        raise ValueError(f"optim: there is no schedule '{name}'; choose one of {', '.join(SCHEDULES)}")
    if steps < 1:
        raise ValueError(f"optim: steps={steps}; a run should have at least 1")
    if not 0 <= warmup <= steps:
        raise ValueError(
            f"optim: {warmup} steps of warm-up in a run of {steps}; give a warm-up of 0 to {steps} "
            "(in `exgate train`: --optim.warmup)"
        )
    if not 0 <= min_ratio <= 1 or not 0 <= decay <= 1:
        raise ValueError(f"optim: min_ratio={min_ratio} and decay={decay} should both be between 0 and 1")
    fall = round(decay * steps) if name == "wsd" else steps - warmup
    if fall > steps - warmup:
        raise ValueError(f"optim: {warmup} steps of warm-up and {fall} of decay are more than the run's {steps}")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if name == "constant":
            return 1.0
        start = steps - fall
        # A fall of one step is at its end at once; so is every step after the last one.
        p = min(1.0, max(0.0, (step - start) / (fall - 1))) if fall > 1 else float(step >= start and fall > 0)
        if name == "cosine":
            return min_ratio + (1 - min_ratio) * (1 + math.cos(math.pi * p)) / 2
        return 1 - (1 - min_ratio) * p

    return factor


def state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's tensors by name, `exp_avg.embed.weight`: what a safetensors file can hold."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value.detach()
    return tensors


def load_state_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The way back from `state_tensors`.

    Raises:
        ValueError: a tensor belongs to no parameter of this model, or has another shape.
    """
    parameters = dict(model.named_parameters())
    for full, tensor in tensors.items():
        key, _, name = full.partition(".")
        parameter = parameters.get(name)
        if parameter is None or (tensor.dim() and tensor.shape != parameter.shape):
            raise ValueError(
                f"optim: the optimizer's '{full}' of shape {tuple(tensor.shape)} fits no parameter of this model"
            )
        # AdamW's fused step counts on the device; all else is where its parameter is.
        optimizer.state[parameter][key] = tensor.to(parameter.device)
