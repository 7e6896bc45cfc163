"""The loop: one batch however it is cut, the state carried, runs that are stopped and go on, runs that go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exgate.data.packing import Corpus, Windows
from exgate.data.tokens import ByteTokenizer
from exgate.models import io, lstm, xlstm
from exgate.models.lm import parameter_groups
from exgate.train import checkpoint, log, optim
from exgate.train.loop import train

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["the", "cell", "forgets", "what", "its", "gate", "was", "told", "to", "forget"]
DOCS = [(f"d{i}", " ".join(WORDS[(i * j) % 10] for j in range(4 + i % 9))) for i in range(40)]


def tiny(**fields) -> torch.nn.Module:
    torch.manual_seed(0)
    return io.build(xlstm.Config(**{"vocab_size": 257, "dim": 16, "blocks": 2, "heads": 2, "pattern": "ms"} | fields))


def go(folder, model=None, *, steps=6, batch=4, window=12, stateful=False, lr=1e-2, **options):
    """A short run over the documents above; returns the model and the result."""
    model = model or tiny()
    corpus = Corpus.encode(DOCS, ByteTokenizer())
    options = {"picture": False, "quiet": True, "log_every": 1, "say": lambda _: None} | options
    factor = options.pop("factor", None) or optim.schedule("cosine", steps=steps, warmup=1)
    result = train(
        model,
        options.pop("batches", None) or Windows(corpus, batch=batch, window=window, stateful=stateful),
        folder=folder,
        optimizer=optim.adamw(parameter_groups(model, 0.1), lr=lr),
        factor=factor,
        steps=steps,
        bytes_per_token=corpus.bytes_per_token,
        **options,
    )
    return model, result


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_loss_falls_and_is_written(tmp_path):
    _, result = go(tmp_path, steps=40, log_every=5, lr=3e-2)
    rows = log.rows(tmp_path)
    assert [row["step"] for row in rows] == list(range(5, 41, 5))
    assert [row["tokens"] for row in rows] == [48 * row["step"] for row in rows]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[0].keys() == {"step", "tokens", "loss", "bits_per_byte", "lr", "gradient_norm"}
    bytes_per_token = Corpus.encode(DOCS, ByteTokenizer()).bytes_per_token
    assert rows[0]["bits_per_byte"] == pytest.approx(rows[0]["loss"] / bytes_per_token / 0.6931471805599453)
    assert result.last == rows[-1]
    assert (result.step, result.stopped_by) == (40, None)
    assert log.rows(tmp_path, log.TIMING)[-1]["tokens_per_second"] > 0
    assert checkpoint.newest(tmp_path).name == "step-00000040"


@pytest.mark.parametrize("stateful", [False, True])
def test_accumulation_is_one_large_batch(tmp_path, stateful):
    """With targets left out unevenly, so that a mean of means would differ."""

    class Masked(Windows):
        def __next__(self):
            batch = super().__next__()
            batch.targets[0, 2:] = -100
            batch.targets[3, :5] = -100
            return batch

    corpus = Corpus.encode(DOCS, ByteTokenizer())
    rows, weights = [], []
    for microbatch in (0, 1, 3):
        folder = tmp_path / str(microbatch)
        model = tiny().double()
        batches = Masked(corpus, batch=4, window=12, stateful=stateful)
        go(folder, model, batches=batches, microbatch=microbatch)
        rows.append(log.rows(folder))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    for row in rows[1:]:
        assert [r["loss"] for r in row] == pytest.approx([r["loss"] for r in rows[0]], rel=1e-9)
        assert [r["gradient_norm"] for r in row] == pytest.approx([r["gradient_norm"] for r in rows[0]], rel=1e-7)
    assert all(torch.allclose(w, weights[0], rtol=0, atol=1e-9) for w in weights[1:])
    assert rows[0][0]["tokens"] == 48 - 10 - 5


def test_the_state_is_carried(tmp_path):
    """The loss of each batch is that of one long pass over the stream, cut from its gradient."""
    corpus = Corpus.encode(DOCS, ByteTokenizer())
    go(tmp_path, factor=lambda _: 0.0, stateful=True, steps=4)
    windows, model, state = Windows(corpus, batch=4, window=12, stateful=True), tiny(), None
    for row in log.rows(tmp_path):
        batch = next(windows)
        with torch.no_grad():
            loss, state = model.loss(batch.tokens, batch.targets, state, reset=batch.reset)
        assert row["loss"] == pytest.approx(float(loss), rel=1e-6)


def test_documents_in_a_window_do_not_see_each_other(tmp_path):
    class Unmarked(Windows):
        def __next__(self):
            batch = super().__next__()
            return batch._replace(reset=torch.zeros_like(batch.reset))

    corpus = Corpus.encode(DOCS, ByteTokenizer())
    go(tmp_path / "a", batch=2, window=60, steps=1)
    go(tmp_path / "b", batches=Unmarked(corpus, batch=2, window=60), steps=1)
    assert log.rows(tmp_path / "a")[0]["loss"] != log.rows(tmp_path / "b")[0]["loss"]


def test_clipping_and_schedule(tmp_path):
    go(tmp_path / "a", steps=3, factor=lambda step: [1.0, 0.5, 0.25][step])
    assert [row["lr"] for row in log.rows(tmp_path / "a")] == [1e-2, 5e-3, 2.5e-3]
    seen = []
    real = torch.optim.AdamW.step

    def step(self, *a):
        seen.append(torch.cat([p.grad.flatten() for g in self.param_groups for p in g["params"]]).norm().item())
        return real(self, *a)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        go(tmp_path / "b", steps=2, clip=0.05)
        go(tmp_path / "c", steps=2, clip=0.0)
    assert seen[:2] == pytest.approx([0.05, 0.05], rel=1e-3)
    assert seen[2] == pytest.approx(log.rows(tmp_path / "c")[0]["gradient_norm"], rel=1e-5)
    assert seen[2] > 0.05


def test_recompute_and_compile_change_nothing(tmp_path):
    plain, _ = go(tmp_path / "plain", steps=3)
    saved, _ = go(tmp_path / "recompute", steps=3, recompute=True)
    assert saved.stack.checkpoint
    assert same(plain, saved)
    real, called = torch.compile, []

    def without_compiler(function):
        called.append(function)
        return real(function, backend="aot_eager")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", without_compiler)
        compiled, _ = go(
            tmp_path / "compile", io.build(lstm.Config(vocab_size=257, dim=8, layers=1)), steps=2, compile=True
        )
    assert called
    assert next(compiled.parameters()).isfinite().all()


def test_bfloat16(tmp_path):
    torch.manual_seed(0)
    go(tmp_path / "a", steps=2, factor=lambda _: 0.0)
    model, _ = go(tmp_path / "b", steps=2, factor=lambda _: 0.0, precision="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    a, b = log.rows(tmp_path / "a")[0]["loss"], log.rows(tmp_path / "b")[0]["loss"]
    assert a != b
    assert b == pytest.approx(a, rel=2e-2)


def test_validation_and_best(tmp_path):
    scores = iter([3.0, 1.0, 2.0])
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"loss": next(scores), "bits_per_byte": 0.5}

    said = []
    _, result = go(tmp_path, steps=6, evaluate=evaluate, evaluate_every=2, say=said.append)
    assert modes == [(False, False)] * 3
    rows = [row for row in log.rows(tmp_path) if "validation_loss" in row]
    assert [(row["step"], row["validation_loss"]) for row in rows] == [(2, 3.0), (4, 1.0), (6, 2.0)]
    assert json.loads((tmp_path / "best" / "score.json").read_text())["step"] == 4
    assert result.validation == rows[-1]
    assert ["best so far" in line for line in said if "validation" in line] == [True, True, False]


def test_loss_that_is_not_finite(tmp_path):
    class Cursed(Windows):
        def __next__(self):
            batch = super().__next__()
            self.count = getattr(self, "count", 0) + 1
            if self.count == 5:
                with torch.no_grad():
                    model.head.weight[3] = float("nan")
            return batch

    model = tiny()
    batches = Cursed(Corpus.encode(DOCS, ByteTokenizer()), batch=4, window=12)
    with pytest.raises(FloatingPointError) as caught:
        go(tmp_path, model, batches=batches, steps=9, checkpoint_every=2)
    words = str(caught.value)
    assert "the loss is nan at step 5, on the batch at epoch 0, index 16 (tokens " in words
    assert " of d" in words, "names documents"
    assert "The step was not taken; the last good checkpoint is" in words
    assert "step-00000004'" in words
    saved = checkpoint.load(checkpoint.newest(tmp_path))
    assert saved.step == 4
    assert io.load(saved.folder).head.weight.isfinite().all()


def test_gradient_that_is_not_finite(tmp_path):
    model = tiny()
    model.embed.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = model.head.weight.detach().clone()
    with pytest.raises(
        FloatingPointError, match=r"the gradient's norm is (nan|inf) \(loss .* at step 1,.*no checkpoint yet"
    ):
        go(tmp_path, model)
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_signals_save_first_and_the_run_goes_on(tmp_path, number, name):
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    whole, _ = go(tmp_path / "whole", steps=7, log_every=3, stateful=True)

    class Interrupted(Windows):
        def __next__(self):
            if self.position["index"] == 3:
                os.kill(os.getpid(), number)
            return super().__next__()

    corpus = Corpus.encode(DOCS, ByteTokenizer())
    batches = Interrupted(corpus, batch=4, window=12, stateful=True)
    _, result = go(tmp_path / "cut", batches=batches, steps=7, log_every=3)
    assert (result.step, result.stopped_by) == (4, name)
    assert checkpoint.newest(tmp_path / "cut").name == "step-00000004"
    said = []
    torch.manual_seed(99)
    model, result = go(tmp_path / "cut", steps=7, log_every=3, stateful=True, say=said.append)
    assert said == ["going on from step 4 of 7"]
    assert result.stopped_by is None
    assert same(model, whole)
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert signal.getsignal(signal.SIGINT) is before


def test_going_on_with_something_else(tmp_path):
    go(tmp_path, steps=2, identity={"text": "a", "tokenizer": "t"})
    with pytest.raises(ValueError, match="started with another text;"):
        go(tmp_path, steps=4, identity={"text": "b", "tokenizer": "t"})
    with pytest.raises(ValueError, match="started with another text, tokenizer;"):
        go(tmp_path, steps=4)
    go(tmp_path, steps=3, identity={"text": "a", "tokenizer": "t", "new": "not known to the checkpoint"})
    go(tmp_path / "s", steps=2, stateful=True, microbatch=2)
    with pytest.raises(ValueError, match="in 2 microbatches, but this run makes 4"):
        go(tmp_path / "s", steps=4, stateful=True, microbatch=1)


def test_options_that_make_no_sense(tmp_path):
    for name, value in (("microbatch", -1), ("clip", -1.0), ("clip", float("nan")), ("seed", -1)):
        with pytest.raises(ValueError, match=f"train: {name}={value}; it should be 0 or more"):
            go(tmp_path, **{name: value})
    with pytest.raises(ValueError, match="no precision 'fp8'; choose one of float32, bfloat16"):
        go(tmp_path, precision="fp8")
    with pytest.raises(ValueError, match="log_every=0"):
        go(tmp_path, log_every=0)


def test_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    go(tmp_path / "a", steps=2, picture=True)
    assert (tmp_path / "a" / "loss.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("exgate.figure.available", lambda: False)
    said = []
    go(tmp_path / "b", steps=2, checkpoint_every=1, picture=True, say=said.append)
    assert said == ["no loss.png: it needs the package 'matplotlib' (pip install 'exgate[plot]')"]


# The test that the rest is for: a process that is killed without warning, at any moment, and started again.
# Its program: runs of a recipe, in turn; one kills itself before a step, or between two files of a checkpoint.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from exgate.cli import recipe, train
from exgate.ops import native
from exgate.train import checkpoint, loop

native.instruction_set(sys.argv[1]).__enter__()
where, number, runs = sys.argv[2], int(sys.argv[3]), sys.argv[4:]

def die_at(count, function):
    calls = [0]
    def dying(*arguments, **options):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return dying

if where == "step":
    loop._Run.advance = die_at(number, loop._Run.advance)
if where == "checkpoint":
    checkpoint._sum = die_at(number, checkpoint._sum)
for run in runs:
    file, folder = run.split("=")
    train.run(recipe.read(file, ["--run.folder", folder]), say=lambda _: None, quiet=True)
"""
RECIPE = """
[model]
name = "xlstm"
dim = 16
blocks = 2
heads = 2
pattern = "ms"
dropout = {dropout}
[data]
sources = ["{text}"]
validation_fraction = 0.1
window = 12
batch = 4
stateful = {stateful}
[optim]
steps = 11
warmup = 2
microbatch = 2
[run]
log_every = 2
evaluate_every = 5
checkpoint_every = 3
picture = false
"""


def test_killed_runs_end_as_if_they_had_not_been(tmp_path, instruction_set):
    for i, (_, body) in enumerate(DOCS):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{i:02d}.txt").write_text(body)
    for name, stateful, dropout in (("shuffled", "false", 0.2), ("stateful", "true", 0.0)):
        words = RECIPE.format(stateful=stateful, dropout=dropout, text=tmp_path / "text")
        (tmp_path / f"{name}.toml").write_text(words)

    def run(where: str, number: int, *runs: str) -> int:
        arguments = [f"{tmp_path}/{name.split('-')[0]}.toml={tmp_path}/{name}" for name in runs]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", KILLED, instruction_set, where, str(number), *arguments]
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode in (0, -signal.SIGKILL), result.stderr
        return result.returncode

    steps = torch.randint(4, 11, (2,)).tolist()
    assert run("never", 0, "shuffled-whole", "stateful-whole") == 0
    assert run("step", steps[0], "shuffled-cut") == -signal.SIGKILL
    assert run("step", steps[1], "stateful-cut") == -signal.SIGKILL
    # Now in the middle of a checkpoint: some of its files are written, its sums are not. The sums of the checkpoint
    # that it goes on from (6 files) and of what it writes itself before are counted too.
    assert run("checkpoint", 6 + 3, "stateful-cut") == -signal.SIGKILL
    assert run("never", 0, "shuffled-cut", "stateful-cut") == 0

    for name in ("shuffled", "stateful"):
        whole, cut = tmp_path / f"{name}-whole", tmp_path / f"{name}-cut"
        assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert len(log.rows(whole)) == 6 + 3
        for part in ("checkpoints/step-00000011", "checkpoints/step-00000009", "best"):
            sums = [json.loads((run / part / "checksums.json").read_text()) for run in (whole, cut)]
            # rich draws from Python's random numbers while it starts, which nothing in a step depends on.
            assert all(one == sums[1][file] for file, one in sums[0].items() if file != checkpoint.TENSORS)
        tensors = [load_file(run / "checkpoints" / "step-00000011" / checkpoint.TENSORS) for run in (whole, cut)]
        assert tensors[0].keys() == tensors[1].keys()
        assert [k for k in tensors[0] if not torch.equal(tensors[0][k], tensors[1][k])] in ([], ["random.python"])
        assert not [p.name for p in [*cut.glob(".[!l]*"), *cut.glob("checkpoints/.*")]], "but .lock"
