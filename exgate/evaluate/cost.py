"""What a model of a suite costs: tokens per second in training, memory for the backward pass, size of its state."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exgate.evaluate import peers
from exgate.evaluate.peers import Probe
from exgate.evaluate.trial import Budget, Problem, errors, trimmed
from exgate.ops.state import flatten

ROUNDS = 15


def measure(names: Sequence[str], task: Any, problem: Problem, budget: Budget) -> dict[str, dict[str, float]]:
    """Training steps of fresh models on a batch of the budget, alone on the thread that it is called on.

    Returns:
        By model: tokens_per_second: forward and backward, the median of fifteen steps, which the models take in turns,
            so that a machine that is slower for a while is slower for all;
        kept_bytes_per_token: tensors that forward keeps for backward, parameters aside;
        state_bytes: of one sequence after the problem's training length, and longest_state_bytes after the length of
            its last bucket.
    """
    budget = problem.own(budget)
    batch = trimmed(task.sample(np.random.default_rng(0), budget.batch, *problem.train))
    probes, found = {}, {}
    for name in names:
        torch.manual_seed(0)
        probe = probes[name] = peers.build(name, task, dim=budget.dim, blocks=budget.blocks, cells=budget.cells)
        sizes = [_state_bytes(probe, task, length) for length in (problem.train[1], problem.buckets[-1][1])]
        found[name] = {
            "kept_bytes_per_token": _kept_bytes(probe, task, batch) / batch[1].numel(),
            "state_bytes": sizes[0], "longest_state_bytes": sizes[1],
        }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in probes}
    for _ in range(ROUNDS):
        for name, probe in probes.items():
            start = time.perf_counter()
            errors(probe, task, *batch)[0].mean().backward()
            seconds[name].append(time.perf_counter() - start)
            probe.zero_grad(set_to_none=True)  # one model's gradients at a time
    speed = {name: batch[1].numel() / statistics.median(taken) for name, taken in seconds.items()}
    return {name: {"tokens_per_second": speed[name], **found[name]} for name in probes}


def _kept_bytes(probe: Probe, task: Any, batch: tuple[Tensor, Tensor]) -> int:
    """What a forward pass keeps for its backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in probe.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        errors(probe, task, *batch)
    return sum(kept.values())


@torch.no_grad()
def _state_bytes(probe: Probe, task: Any, length: int) -> int:
    sequence, _ = trimmed(task.sample(np.random.default_rng(0), 1, length, length))
    _, state = probe.stack(probe.embed(sequence))
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())
