"""The models of the suites: equal sizes, refusals in words, and the stack of a language model between two ends."""

import inspect
import pkgutil
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

import exgate.evaluate
from exgate.data.synthetic import task
from exgate.evaluate import formal, peers

TASKS = {"parity": task("formal.language", name="parity"), "mqar": task("recall.mqar", vocabulary=128),
         "adding": task("classical.adding")}  # fmt: skip


@pytest.mark.parametrize("name", peers.MODELS)
@pytest.mark.parametrize(
    "kind, dim, blocks", [("parity", 64, 2), ("mqar", 64, 2), ("adding", 64, 1), ("adding", 16, 2)]
)
def test_all_are_of_one_size(name, kind, dim, blocks):
    if name == "xlstm[1:1]" and blocks == 1:
        return  # it has at least two
    made, goal = (
        peers.build(model, TASKS[kind], dim=dim, blocks=blocks).num_parameters() for model in (name, peers.REFERENCE)
    )
    assert abs(made / goal - 1) <= peers.TOLERANCE == 0.03


SUITES = [
    name for file in pkgutil.iter_modules(exgate.evaluate.__path__)
    if hasattr(import_module(name := f"exgate.evaluate.{file.name}"), "suite")
]  # fmt: skip
RECALL = "exgate.evaluate.recall"


def _suite(name, preset):
    make = import_module(name).suite
    return make(preset, **({"text": "0"} if "text" in inspect.signature(make).parameters else {}))


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("preset", ["smoke", "small", "paper"])
def test_what_is_reported_is_not_what_a_rate_is_chosen_on(name, preset):
    made = _suite(name, preset)
    peers.check(made.models, min(problem.own(made.budget).blocks for problem in made.problems))
    for problem in made.problems:
        assert problem.train not in problem.buckets[1:]


@pytest.mark.parametrize("name, preset, width", [*((name, "small", None) for name in SUITES), (RECALL, "paper", 128)])
def test_the_models_of_a_suite_are_of_one_size(name, preset, width):
    """In all, and nearly so without embedding and head, which are most of a model with a large vocabulary."""
    made = _suite(name, preset)
    for problem in made.problems:
        if width not in (None, problem.dim):
            continue
        own, drawn = problem.own(made.budget), _ends(problem)
        ends = drawn.vocabulary, drawn.features, drawn.outputs
        total, between = peers._counts(peers.size(peers.REFERENCE, drawn, dim=own.dim, blocks=own.blocks), ends)
        for model in made.models:
            fields = peers.size(model, drawn, dim=own.dim, blocks=own.blocks, cells=own.cells)
            found = peers._counts(fields, ends)
            assert abs(found[0] / total - 1) <= 0.03, (problem.name, model)
            assert abs(found[1] / between - 1) <= 0.07, (problem.name, model)


def test_recall_as_published():
    made = _suite(RECALL, "paper")
    own = {problem.train[0]: problem.own(made.budget) for problem in made.problems if problem.dim}
    assert {length: (budget.batch, budget.steps) for length, budget in own.items()} == {
        64: (512, 12_500), 128: (512, 12_500), 256: (256, 25_000)
    }  # fmt: skip


def _ends(problem):
    """A problem's task, or the ends of one on a text, which would have to be read."""
    if not problem.task.startswith("excerpts."):
        return task(problem.task, **problem.options)
    classes = problem.options["most"] + 2 if "most" in problem.options else 256
    return SimpleNamespace(vocabulary=classes, features=0, outputs=classes)


@pytest.mark.parametrize("name", peers.MODELS)
def test_a_probe_reads_no_future(name):
    for kind, made in TASKS.items():
        probe = peers.build(name, made, dim=16, blocks=2).eval()
        inputs = torch.randint(made.vocabulary, (2, 9)) if made.vocabulary else torch.randn(2, 9, made.features)
        outputs = probe.head(probe(inputs))
        assert outputs.shape == (2, 9, made.outputs), kind
        changed = inputs.clone()
        changed[:, 6:] = inputs[:, 6:].flip(0) if made.vocabulary else 5.0
        torch.testing.assert_close(probe.head(probe(changed))[:, :6], outputs[:, :6])


def test_gates_that_do_not_see_the_input_stay_so():
    probe = peers.build("xlstm[1:0]-bias-gates", TASKS["parity"], dim=16, blocks=2)
    frozen = {name: p for name, p in probe.named_parameters() if name.endswith(("igate.weight", "fgate.weight"))}
    assert len(frozen) == 4
    probe.head(probe(torch.randint(3, (2, 9)))).sum().backward()
    for parameter in frozen.values():
        assert not parameter.requires_grad
        assert parameter.grad is None
        assert not parameter.any()
    learnt = sum(parameter.numel() for parameter in probe.parameters()) - sum(p.numel() for p in frozen.values())
    assert probe.num_parameters() == learnt


def test_refusals(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown model 'lstn'. Did you mean 'lstm'"):
        peers.check(["lstm", "lstn"])
    with pytest.raises(
        ValueError, match=r"'xlstm\[1:1\]' has 2 kinds of blocks, but the models of this problem have 1 in"
    ):
        peers.size("xlstm[1:1]", TASKS["adding"], dim=32, blocks=1)
    monkeypatch.setattr(peers, "TOLERANCE", 1e-9)
    peers._size.cache_clear()
    with pytest.raises(ValueError, match=r"parameters at width .*, but .* are wanted, within 0%. Take another width"):
        peers.size("lstm", TASKS["parity"], dim=16, blocks=2)


def test_the_cells_are_those_of_the_paper():
    for cells, convolves, largest in ((None, True, 0.0), (formal.CELLS, False, 1 / 8)):
        probe = peers.build("xlstm[0:1]", TASKS["parity"], dim=64, blocks=2, cells=cells)
        slstm = probe.stack.layers[0].layers[0].layer
        assert (slstm.conv is not None, slstm.heads) == (convolves, 1)
        assert slstm.recurrent.abs().max().item() == pytest.approx(largest, rel=0.01)
    assert "recurrent_init" not in peers.size("lstm", TASKS["parity"], dim=64, blocks=2, cells=formal.CELLS)
