"""What a model of a suite costs: tokens per second in training, memory for the backward pass, size of its state."""

import statistics
import time
from typing import Any

import numpy as np
import torch

from exgate.evaluate import peers
from exgate.evaluate.trial import Budget, Problem, errors, trimmed
from exgate.ops.state import flatten

STEPS = 5


def measure(name: str, task: Any, problem: Problem, budget: Budget) -> dict[str, float]:
    """Training steps of a fresh model on batches of the budget, alone on the thread that it is called on.

    Returns:
        tokens_per_second: forward and backward, the median of five steps.
        kept_bytes_per_token: tensors that forward keeps for backward, parameters aside.
        state_bytes: of one sequence after the problem's training length, and longest_state_bytes after the length of
            its last bucket.
    """
    torch.manual_seed(0)
    budget = problem.own(budget)
    probe = peers.build(name, task, dim=budget.dim, blocks=budget.blocks, cells=budget.cells)
    inputs, targets = trimmed(task.sample(np.random.default_rng(0), budget.batch, *problem.train))
    own = {parameter.untyped_storage().data_ptr() for parameter in probe.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        errors(probe, task, inputs, targets)[0].mean().backward()
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        errors(probe, task, inputs, targets)[0].mean().backward()
        seconds.append(time.perf_counter() - start)
    sizes = []
    for length in (problem.train[1], problem.buckets[-1][1]):
        sequence, _ = trimmed(task.sample(np.random.default_rng(0), 1, length, length))
        with torch.no_grad():
            _, state = probe.stack(probe.embed(sequence))
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values()))
    return {
        "tokens_per_second": targets.numel() / statistics.median(seconds),
        "kept_bytes_per_token": sum(kept.values()) / targets.numel(),
        "state_bytes": sizes[0],
        "longest_state_bytes": sizes[1],
    }
