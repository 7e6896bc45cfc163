"""Small runs: the scores against hand-made models, schedule, divergence, repetition, and learning."""

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from exgate.data.synthetic import Batch, Task, task
from exgate.evaluate import adding, copy, multiplication, peers, temporal_order, trial
from exgate.evaluate.trial import Budget, Problem

BUDGET = Budget(steps=2, batch=4, dim=16, rates=(1e-2,), rows=6)


class Fixed(torch.nn.Module):
    """A "model" whose outputs are made from its inputs by a function."""

    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, torch.nn.Identity()

    def forward(self, inputs, reset=None):
        return self.function(inputs)


def constant(inputs, targets, **known):
    """A task that is always the same rows."""

    def sample(rng, rows, shortest, longest):
        return Batch(np.resize(inputs, (rows, *inputs.shape[1:])), np.resize(targets, (rows, *targets.shape[1:])))

    return Task(sample=sample, **known)


def test_scores_of_classes():
    targets = np.array([[-100, 1, 2], [-100, 1, 1]])
    made = constant(np.array([[1, 1, 2], [1, 1, 2]]), targets, vocabulary=3, outputs=3, chance=1 / 3)
    guess = torch.nn.functional.one_hot
    scores = trial.score(Fixed(lambda x: 50.0 * guess(x, 3)), made, BUDGET, (3, 3))
    assert scores["accuracy"] == pytest.approx(0.75)
    assert scores["scaled"] == pytest.approx((0.75 - 1 / 3) / (2 / 3))
    assert scores["correct"] == 0.5
    assert scores["loss"] == pytest.approx(50 / 4)
    blank = replace(made, blank=2)
    scores = trial.score(Fixed(lambda x: 50.0 * guess(x, 3)), blank, BUDGET, (3, 3))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(50 / 4), "what is blank is learnt"


def test_scores_of_numbers():
    targets = np.array([[np.nan, 1.0, 2.0], [np.nan, 1.0, np.nan]], np.float32)
    inputs = np.array([[[0], [1], [2.5]], [[0], [1.2], [7]]], np.float32)
    made = constant(inputs, targets, features=1, outputs=1, chance=1.0, tolerance=0.3)
    scores = trial.score(Fixed(lambda x: x), made, BUDGET, (3, 3))
    assert scores["mse"] == pytest.approx((0.25 + 0.04) / 3)
    assert scores["last"] == pytest.approx((0.25 + 0.04) / 2)
    assert scores["correct"] == 0.5
    assert scores["loss"] == scores["mse"]
    assert "steps" not in scores
    scores = trial.score(Fixed(lambda x: x), replace(made, along=True), BUDGET, (3, 3))
    assert scores["steps"] == [None, pytest.approx(0.02), pytest.approx(0.25)]


def test_scores_along_a_long_sequence_and_by_group(monkeypatch):
    monkeypatch.setattr(trial, "STEPS", 2)
    targets = np.array([[1, 2, 0, 1]])
    made = constant(targets * 0, targets, vocabulary=3, outputs=3, chance=1 / 3, along=True, groups=np.array([1, 0, 0]))
    logits = torch.tensor([[[0.0, 9, 0], [0, 0, 0], [0, 0, 0], [0, 9, 0]]])
    scores = trial.score(Fixed(lambda x: logits.expand(len(x), 4, 3)), made, BUDGET, (4, 4))
    sure, chance = math.log(1 + 2 * math.exp(-9)), math.log(3)
    assert trial.stretch(4) == 2
    assert scores["steps"] == pytest.approx([(sure + chance) / 2] * 2)
    assert scores["groups"] == pytest.approx([(2 * sure + chance) / 3, chance])
    assert scores["bits"] == pytest.approx(scores["loss"] / math.log(2))
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))


def test_long_sequences_are_scored_up_to_a_number_of_steps():
    rows = []

    def sample(rng, count, shortest, longest):
        rows.append(count)
        return task("formal.language", name="parity").sample(rng, count, shortest, longest)

    made = replace(task("formal.language", name="parity"), sample=sample)
    probe = peers.build("lstm", made, dim=16, blocks=2)
    trial.score(probe, made, replace(BUDGET, tokens=30), (5, 10))
    assert sum(rows) == 3


def test_what_is_as_by_default_is_no_part_of_a_runs_identity():
    problem = Problem(name="p", task="t", train=(1, 2), buckets=((1, 2),))
    found = trial.configure(problem, replace(BUDGET, seeds=3, rates=(1.0,)), "lstm", rate=0.1, seed=0)
    assert found["problem"] == {"name": "p", "task": "t", "train": (1, 2), "buckets": ((1, 2),)}
    assert found["budget"] == {"steps": 2, "batch": 4, "dim": 16, "rows": 6}
    changed = trial.configure(replace(problem, steps=5), BUDGET, "lstm", rate=0.1, seed=0)
    assert changed["problem"]["steps"] == 5


def test_a_problem_has_its_own_settings():
    seen = []

    def sample(rng, rows, shortest, longest):
        seen.append(rows)
        return task("listops.listops").sample(rng, rows, shortest, longest)

    made = replace(task("listops.listops"), sample=sample)
    problem = Problem(name="p", task="listops.listops", train=(3, 9), buckets=((3, 9),))
    runs = []
    for changed in (problem, replace(problem, dim=24, steps=5, blocks=1, batch=2)):
        seen.clear()
        configuration = trial.configure(changed, BUDGET, "lstm", rate=0.01, seed=0)
        runs.append((trial.run(configuration, lambda name: made)["parameters"], seen[:]))
    sizes = [peers.build("lstm", made, dim=dim, blocks=blocks).num_parameters() for dim, blocks in ((16, 2), (24, 1))]
    assert runs == [(sizes[0], [4, 4] + [4, 2] * 2), (sizes[1], [2] * 5 + [2] * 6)]


def test_the_schedule():
    budget = replace(BUDGET, steps=100, floor=1e-5)
    rates = [trial._rate(step, budget, 1e-2) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[9] == 1e-2
    assert rates[-1] == pytest.approx(1e-5)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert trial._rate(54, budget, 1e-2) == pytest.approx(5e-3, rel=0.02)


def test_training_sequences_grow():
    budget = replace(BUDGET, steps=100, curriculum=0.5)
    shortest, longest = zip(*(trial._lengths(step, budget, (3, 40), None) for step in range(100)), strict=True)
    assert (longest[0], longest[24], set(longest[49:]), set(shortest)) == (4, 21, {40}, {3})
    assert list(longest) == sorted(longest)
    assert {trial._lengths(step, BUDGET, (3, 40), (1, 1)) for step in range(100)} == {(3, 40)}
    both = [trial._lengths(step, budget, (500, 550), (50, 55)) for step in range(100)]
    assert (both[0], both[24], set(both[49:])) == ((59, 65), (275, 303), {(500, 550)})
    drawn = []

    def sample(rng, rows, shortest, longest):
        drawn.append((shortest, longest))
        return made.sample(rng, rows, shortest, longest)

    made = task("formal.language", name="parity")
    few = replace(budget, steps=4, batch=2)
    probe = peers.build("lstm", made, dim=16, blocks=1)
    trial.train(probe, replace(made, sample=sample), few, lengths=(3, 11), rate=1e-3, seed=0)
    assert drawn == [(3, 7), (3, 11), (3, 11), (3, 11)]
    drawn.clear()
    trial.train(probe, replace(made, sample=sample), few, lengths=(9, 11), first=(5, 7), rate=1e-3, seed=0)
    assert drawn == [(7, 9), (9, 11), (9, 11), (9, 11)]


def test_what_a_curriculum_begins_with_is_of_a_run_only_where_there_is_one():
    problem = Problem(name="parity", task="parity", train=(9, 11), buckets=((9, 11),))
    for curriculum, same in ((0.0, True), (0.5, False)):
        budget = replace(BUDGET, curriculum=curriculum)
        plain, begun = (
            trial.configure(replace(problem, first=first), budget, "lstm", rate=1e-3, seed=0)
            for first in (None, (3, 4))
        )
        assert (plain == begun) is same


def test_a_run_is_repeatable_and_learns():
    problem = Problem(name="p", task="formal.language", options={"name": "even-pairs"}, train=(3, 8), buckets=((3, 8),))
    budget = Budget(steps=120, batch=64, dim=16, rates=(1e-2,), rows=128)
    configuration = trial.configure(problem, budget, "xlstm[0:1]", rate=1e-2, seed=1)
    first, again = (trial.run(configuration, task) for _ in range(2))
    assert first["buckets"][0]["scaled"] > 0.95
    assert first["training"][0] > 0.5 > 10 * first["training"][-1]
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    other = trial.run(configuration | {"seed": 2}, task)
    assert other["training"] != first["training"]


def test_validation_test_and_training_are_different_draws():
    seen = []

    def sample(rng, rows, shortest, longest):
        seen.append(rng.bit_generator.state["state"]["state"])
        return task("classical.adding").sample(rng, rows, 20, 20)

    made = replace(task("classical.adding"), sample=sample)
    problem = Problem(name="p", task="t", train=(20, 20), buckets=((20, 20), (20, 20)))
    trial.run(trial.configure(problem, BUDGET, "lstm", rate=1e-3, seed=0), lambda name: made)
    steps, validation, first, second = seen[0], seen[2], seen[4], seen[6]
    assert len({steps, validation, first}) == 3
    assert first == second


def test_a_run_that_diverges_says_so():
    good = task("classical.adding")

    def sample(rng, rows, shortest, longest):
        batch = good.sample(rng, rows, 20, 20)
        return Batch(batch.inputs, batch.targets * np.float32(1e30))

    problem = Problem(name="p", task="t", train=(20, 20), buckets=((20, 20),))
    configuration = trial.configure(problem, BUDGET, "lstm", rate=1e-3, seed=0)
    result = trial.run(configuration, lambda name: replace(good, sample=sample))
    assert result["diverged"]
    assert math.isnan(result["training"][-1])
    assert "buckets" not in result


def test_padding_columns_are_cut():
    batch = SimpleNamespace(inputs=np.ones((2, 9), np.int64), targets=np.full((2, 9), -100))
    batch.targets[0, 4] = 1
    inputs, targets = trial.trimmed((batch.inputs, batch.targets))
    assert inputs.shape == targets.shape == (2, 5)


@pytest.mark.parametrize("model", peers.MODELS)
def test_sequences_end_to_end_are_the_same_sequences(model):
    for made, lengths in ((task("formal.language", name="set"), (3, 20)), (task("nearest.search"), (2, 12))):
        inputs, targets = trial.trimmed(made.sample(np.random.default_rng(0), 24, *lengths))
        if inputs.is_floating_point():
            inputs = inputs.double()
        probe = peers.build(model, made, dim=16, blocks=2).double()
        dense, aims, reset = trial.packed(inputs, targets)
        assert len(dense) < 0.8 * len(inputs)
        assert reset is not None
        assert reset.sum() == len(inputs)
        apart, together = (trial.errors(probe, made, *parts)[0] for parts in ((inputs, targets), (dense, aims, reset)))
        assert len(together) == len(apart)
        torch.testing.assert_close(together.sort().values, apart.sort().values, rtol=1e-9, atol=1e-12)


def test_sequences_of_one_length_stay_as_they_are():
    inputs, targets = trial.trimmed(
        task("recall.mqar", vocabulary=16, pairs=2).sample(np.random.default_rng(0), 4, 12, 12)
    )
    same, aims, reset = trial.packed(inputs, targets)
    assert same is inputs
    assert aims is targets
    assert reset is None


@pytest.mark.parametrize("models", [("lstm", "xlstm[1:1]", "llama"), ("xlstm[0:1]", "mamba", "rwkv4")])
def test_models_differ_in_nothing_but_themselves(models, monkeypatch):
    """The same batches in the same order, the same rates, the same validation and test data, whatever the model."""
    seen, batches, rates, made = {}, [], [], task("formal.language", name="parity")

    def sample(rng, *where):
        batch = made.sample(rng, *where)
        batches.append((where, np.concatenate([part.ravel() for part in batch]).tolist()))
        return batch

    class Watched(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append([(group["lr"], group["weight_decay"], group["betas"]) for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    problem = Problem(name="parity", task="parity", train=(3, 12), buckets=((3, 12), (20, 30)))
    budget = replace(BUDGET, steps=7, curriculum=0.5)
    for model in models:
        configuration = trial.configure(problem, budget, model, rate=3e-3, seed=1)
        trial.run(configuration, lambda name: replace(made, sample=sample))
        seen[model] = (batches[:], rates[:])
        batches.clear()
        rates.clear()
    first, *others = seen.values()
    assert len(first[1]) == 7
    assert len({where for where, _ in first[0]}) > 3, "lengths that grow, and those that are scored"
    assert all(other == first for other in others)
    same = [tuple(values) for (_, *lengths), values in first[0] if tuple(lengths) == (3, 12)]
    assert len(same) >= 4
    assert len(set(same)) == len(same), "training, validation and test data of the same lengths are others"


@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
@pytest.mark.parametrize("suite", [adding, multiplication, temporal_order, copy])
def test_long_lags_can_grow_from_their_first_lengths(suite, preset):
    for problem in suite.suite(preset).problems:
        sequences = task(problem.task, **problem.options).sample(np.random.default_rng(0), 4, *problem.first)
        answers = sequences.targets > 0 if suite is copy else sequences.targets >= -1
        assert (answers.sum(1) == (10 if suite is copy else 1)).all(), "as many answers as in long ones"
        assert problem.first[1] < problem.train[0]
