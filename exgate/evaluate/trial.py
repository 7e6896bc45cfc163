"""One small training run on a generator, scored in buckets of length: what most suites are made of."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exgate.evaluate import peers
from exgate.evaluate.peers import Probe
from exgate.models.lm import parameter_groups

IGNORED = -100
# Streams of random numbers: a model never meets in training what it is scored on, and all models meet the same.
TRAINING, VALIDATION, TEST = 0, 1, 2
STEPS = 64  # numbers along a sequence, at most


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A task at certain lengths. `task` and `options` name the generator; lengths are (shortest, longest).

    Args:
        name: in tables.
        train: lengths to learn from; validation has the same.
        buckets: lengths to be scored on.
        dim, steps, blocks, batch: in place of the budget's.
        first: lengths that a curriculum begins with; the shortest of `train` if there are none.
    """

    name: str
    task: str
    train: Sequence[int]
    buckets: Sequence[Sequence[int]]
    options: dict[str, Any] = field(default_factory=dict)
    dim: int | None = None
    steps: int | None = None
    blocks: int | None = None
    batch: int | None = None
    first: Sequence[int] | None = None

    def own(self, budget: "Budget") -> "Budget":
        """The budget with what this problem has in its place."""
        said = {name: getattr(self, name) for name in ("dim", "steps", "blocks", "batch")}
        return replace(budget, **{name: value for name, value in said.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every model of a table gets alike.

    Args:
        steps, batch: of training.
        dim: the width of the reference model, whose size all have (`exgate.evaluate.peers`); blocks: their depth.
        rates: learning rates to choose from, by the loss on validation data of the training lengths.
        seeds: runs at the best rate; the choice itself is made on the first.
        rows: sequences per bucket, of long ones no more than there are in `tokens` steps.
        warmup: share of the steps; then a cosine to `floor`.
        cells: fields of the config of xLSTM models in place of the usual.
        curriculum: share of the steps over which the sequences of training grow to their lengths.
    """

    steps: int
    batch: int
    dim: int
    rates: tuple[float, ...] = ()
    seeds: int = 1
    rows: int = 512
    tokens: int = 2**22
    blocks: int = 2
    warmup: float = 0.1
    floor: float = 1e-5
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip: float = 1.0
    dropout: float = 0.0
    cells: dict[str, Any] = field(default_factory=dict)
    curriculum: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Problems, a budget, and how the result is shown.

    Args:
        measure: of `score`; "scaled", "accuracy" and "correct" are best at 1, "mse", "last", "bits" and "perplexity"
            the smaller the better.
        headline: the bucket of the table's and map's numbers.
        picture: "map" (models by problems), "lengths" (measure by bucket), "steps" (error along the sequence) or
            "groups" (loss by group of classes).
        axis: what the lengths measure, for the picture; loss: what `steps` are measured in.
        groups: their names, for the picture.
        costs: whether tokens per second, memory and the state's size are measured, too.
    """

    problems: tuple[Problem, ...]
    budget: Budget
    models: tuple[str, ...]
    measure: str = "scaled"
    headline: int = -1
    picture: str = "lengths"
    axis: str = "length"
    loss: str = "mean squared error"
    groups: tuple[str, ...] = ()
    costs: bool = False


def run(configuration: dict[str, Any], make: Callable[..., Any]) -> dict[str, Any]:
    """Train one model once and score it.

    Args:
        configuration: of `configure`.
        make: (name, **options) -> task: sample(rng, rows, shortest, longest) -> (inputs, targets), vocabulary,
            features, outputs, chance, blank, tolerance. The generators are no part of this folder.
    Returns:
        parameters, width, seconds, training (losses, about fifty), validation (scores on the training lengths) and
        buckets (scores each). A run whose loss is not finite stops, and has `diverged`: True in place of scores.
    """
    problem = Problem(**configuration["problem"])
    budget = problem.own(Budget(**configuration["budget"]))
    task = make(problem.task, **problem.options)
    seed, rate, start = configuration["seed"], configuration["rate"], time.monotonic()
    torch.manual_seed(seed)
    probe = peers.build(
        configuration["model"], task, dim=budget.dim, blocks=budget.blocks, dropout=budget.dropout, cells=budget.cells
    )
    result: dict[str, Any] = {"parameters": probe.num_parameters(), "width": probe.head.in_features}
    losses = train(probe, task, budget, lengths=problem.train, first=problem.first, rate=rate, seed=seed)
    result["training"] = losses
    if losses and not math.isfinite(losses[-1]):
        result["diverged"] = True
    else:
        result["validation"] = score(probe, task, budget, problem.train, stream=VALIDATION)
        result["buckets"] = [score(probe, task, budget, bucket) for bucket in problem.buckets]
    return result | {"seconds": round(time.monotonic() - start, 3)}


def configure(problem: Problem, budget: Budget, model: str, *, rate: float, seed: int) -> dict[str, Any]:
    """All that decides the numbers of a run, as JSON holds it: its identity. What is as by default is left out."""
    shared = replace(budget, rates=(), seeds=1)  # which others there are changes nothing here
    problem = problem if budget.curriculum else replace(problem, first=None)
    return {"problem": _said(problem), "budget": _said(shared), "model": model, "rate": rate, "seed": seed}


def train(
    probe: Probe,
    task: Any,
    budget: Budget,
    *,
    lengths: Sequence[int],
    first: Sequence[int] | None = None,
    rate: float,
    seed: int,
) -> list[float]:
    """AdamW on fresh batches; mean training losses of fifty stretches, the last one not finite if it diverged."""
    groups = [group for group in parameter_groups(probe, budget.weight_decay) if group["params"]]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, budget.beta2), fused=True)
    rng = np.random.default_rng([seed, TRAINING])
    parameters, every = list(probe.parameters()), max(1, budget.steps // 50)
    probe.train()
    kept, total, count = [], 0.0, 0
    for step in range(budget.steps):
        inputs, targets = trimmed(task.sample(rng, budget.batch, *_lengths(step, budget, lengths, first)))
        error = errors(probe, task, *packed(inputs, targets))[0].mean()
        optimizer.zero_grad(set_to_none=True)
        error.backward()
        torch.nn.utils.clip_grad_norm_(parameters, budget.clip)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, budget, rate)
        optimizer.step()
        total, count = total + error.item(), count + 1
        if not math.isfinite(total):
            return [*kept, math.nan]
        if (step + 1) % every == 0 or step + 1 == budget.steps:
            kept.append(total / count)
            total, count = 0.0, 0
    return kept


@torch.no_grad()
def score(probe: Probe, task: Any, budget: Budget, bucket: Sequence[int], *, stream: int = TEST) -> dict[str, Any]:
    """Scores on sequences of a bucket's lengths, the same for every model.

    Returns:
        For classes: loss (nats), accuracy per answer token (`task.blank` does not count), scaled accuracy
        (accuracy - chance) / (1 - chance), correct: the share of rows without a mistake, with `task.groups` the loss of
        each group, and with `task.along` bits and perplexity: the loss in base 2, and e to it.
        For numbers: loss and mse over all targets, last: the error at each row's last target, correct: the share of
        rows with all errors below the tolerance.
        With `task.along` steps: the loss at each step, or in stretches of `stretch` steps; None: there is no target.
    """
    rng = np.random.default_rng([*bucket, stream])
    sample = {VALIDATION: task.validation, TEST: task.test}.get(stream) or task.sample
    wanted = min(budget.rows, max(1, budget.tokens // bucket[1]))
    probe.eval()
    parts, done = [], 0
    while done < wanted:
        rows = min(budget.batch, wanted - done, max(1, 2**15 // bucket[1]))
        inputs, targets = trimmed(sample(rng, rows, *bucket))
        loss, guess, counted = errors(probe, task, inputs, targets)
        wrong = guess != targets[counted] if task.tolerance == 0 else loss.sqrt() >= task.tolerance
        row, step = counted.nonzero().unbind(1)
        parts.append((loss.double(), wrong, targets[counted], row + done, step))
        done += rows
    loss, wrong, answers, row, step = map(torch.cat, zip(*parts, strict=True))
    bad = wrong if task.tolerance else wrong & (answers != task.blank)
    scores: dict[str, Any] = {"loss": loss.mean().item(), "correct": 1 - len(row[bad].unique()) / len(row.unique())}
    if task.along:
        scores["steps"] = _means(loss, step // stretch(bucket[1]), -(-bucket[1] // stretch(bucket[1])))
    if task.along and not task.tolerance:
        scores |= {"bits": loss.mean().item() / math.log(2), "perplexity": loss.mean().exp().item()}
    if task.tolerance:
        last = torch.cat([row[1:] != row[:-1], torch.ones(1, dtype=torch.bool)])
        return scores | {"mse": loss.mean().item(), "last": loss[last].mean().item()}
    if task.groups is not None:
        scores["groups"] = _means(loss, torch.from_numpy(task.groups)[answers], 1 + int(task.groups.max()))
    accuracy = 1 - wrong[answers != task.blank].double().mean().item()
    return scores | {"accuracy": accuracy, "scaled": (accuracy - task.chance) / (1 - task.chance)}


def stretch(length: int) -> int:
    """How many steps of a sequence share a number in `steps`."""
    return -(-length // STEPS)


def _means(values: Tensor, place: Tensor, count: int) -> list[float | None]:
    """The mean of the values at each of `count` places; None where there is none."""
    sums, counts = (torch.bincount(place, weight, count) for weight in (values, torch.ones_like(values)))
    return [(a / b).item() if b else None for a, b in zip(sums, counts, strict=True)]


def packed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same sequences end to end in fewer rows, and the marks (B, T) where each begins: less padding to compute.

    A sequence is read up to its last target. Marks are None, and nothing changes, where no two fit into one row.
    """
    longest, counted = inputs.shape[1], _counted(targets).numpy()
    sizes = longest - counted[:, ::-1].argmax(1)
    row, begin, room = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64), []
    for number in np.argsort(-sizes, kind="stable"):
        row[number] = next((place for place, left in enumerate(room) if left >= sizes[number]), len(room))
        if row[number] == len(room):
            room.append(longest)
        begin[number] = longest - room[row[number]]
        room[row[number]] -= sizes[number]
    if len(room) == len(sizes):
        return inputs, targets, None
    read = torch.from_numpy(np.arange(longest) < sizes[:, None])
    where = torch.from_numpy((row * longest + begin)[:, None] + np.arange(longest))[read]
    shape = (len(room), longest)
    dense = inputs.new_zeros(*shape, *inputs.shape[2:])
    aims = targets.new_full(shape, math.nan if targets.is_floating_point() else IGNORED)
    dense.flatten(0, 1)[where], aims.view(-1)[where] = inputs[read], targets[read]
    reset = np.zeros(shape, bool)
    reset[row, begin] = True
    return dense, aims, torch.from_numpy(reset)


def errors(
    probe: Probe, task: Any, inputs: Tensor, targets: Tensor, reset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses and guesses (N,) where there is a target, the mask (B, T) of these places; the head runs there only."""
    counted = _counted(targets)
    guess = probe.head(probe(inputs, reset=reset)[counted])
    if task.tolerance:
        guess = guess[:, 0]
        return (guess - targets[counted]).square(), guess, counted
    return F.cross_entropy(guess, targets[counted], reduction="none"), guess.argmax(1), counted


def _rate(step: int, budget: Budget, rate: float) -> float:
    """Linear warm-up, then a cosine down to the floor at the last step."""
    warmup = math.ceil(budget.warmup * budget.steps)
    if step < warmup:
        return rate * (step + 1) / warmup
    floor = min(budget.floor, rate)
    part = (step - warmup + 1) / (budget.steps - warmup)
    return floor + (rate - floor) * (1 + math.cos(math.pi * part)) / 2


def _lengths(step: int, budget: Budget, last: Sequence[int], first: Sequence[int] | None) -> tuple[int, int]:
    """The lengths, shortest and longest, of the training sequences of a step: they grow evenly, then stay."""
    grown = min(1.0, (step + 1) / (budget.curriculum * budget.steps)) if budget.curriculum else 1.0
    shortest, longest = (
        begin + round((end - begin) * grown) for begin, end in zip(first or (last[0], last[0]), last, strict=True)
    )
    return shortest, longest


def trimmed(batch: Any) -> tuple[Tensor, Tensor]:
    """A batch without the columns at its end that are padding in every row."""
    inputs, targets = (torch.from_numpy(np.ascontiguousarray(part)) for part in batch)
    end = int(_counted(targets).any(0).nonzero().max()) + 1
    return inputs[:, :end], targets[:, :end]


def _counted(targets: Tensor) -> Tensor:
    """(B, T): where there is a target."""
    return ~targets.isnan() if targets.is_floating_point() else targets != IGNORED


def _said(part: Problem | Budget) -> dict[str, Any]:
    """The fields of a dataclass that are not as by default."""
    named = ((entry, getattr(part, entry.name)) for entry in fields(part))
    return {entry.name: value for entry, value in named if value != entry.default and value != {}}
