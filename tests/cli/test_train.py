"""`exgate train` from the command line: text in, a run folder out; going on; and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import io as streams
import json
import os
import shutil
import sys
import types

import pytest

import exgate
from exgate.cli import main, recipe
from exgate.cli import train as command
from exgate.data import tokens
from exgate.data.packing import Corpus
from exgate.train import checkpoint, log

TOML = """
[model]
name = "lstm"
dim = 8
layers = 1
[data]
sources = ["{text}"]
validation_fraction = 0.2
window = 16
batch = 2
[optim]
steps = 4
warmup = 1
[run]
folder = "{folder}"
log_every = 2
evaluate_every = 2
checkpoint_every = 2
picture = false
"""


@pytest.fixture
def here(tmp_path):
    """A folder with text in it and a recipe for it."""
    (tmp_path / "text").mkdir()
    for i in range(12):
        (tmp_path / "text" / f"{i}.txt").write_text(f"This is document number {i}, of a few words.\n" * 3)
    (tmp_path / "tiny.toml").write_text(TOML.format(text=tmp_path / "text", folder=tmp_path / "run"))
    return tmp_path


def go(here, *flags: str) -> int:
    return main(["train", str(here / "tiny.toml"), *flags])


def test_a_run_from_beginning_to_end(here, capsys):
    assert go(here) == 0
    out = capsys.readouterr().out
    assert f"lstm: {exgate.load(here / 'run' / 'best').num_parameters():,} parameters on cpu, in {here / 'run'}" in out
    assert "training: " in out
    assert "step 2/4  loss " in out
    assert f"Next: {command.program()} generate" in out
    run = here / "run"
    kept = {"recipe.toml", "metrics.jsonl", "timing.jsonl", "tokenizer.json", "best", "checkpoints"}
    assert set(os.listdir(run)) - {command.LOCK} == kept
    assert recipe.read(str(run)).model.vocab_size == 257
    model = exgate.load(checkpoint.model_folder(run))
    assert model.config.dim == 8
    assert tokens.load(checkpoint.model_folder(run)).vocab_size == 257
    rows = [row for row in log.rows(run) if "validation_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    # The validation documents have one byte a token, and the token at their end is not scored.
    assert rows[0]["validation_bits_per_byte"] == pytest.approx(rows[0]["validation_loss"] / 0.6931471805599453)
    assert main(["train", str(run)]) == 0
    assert "going on from step 4 of 4" in capsys.readouterr().out


def test_going_on_with_another_recipe(here, capsys):
    assert go(here) == 0
    assert go(here, "--optim.lr", "0.5", "--data.window", "8", "--run.keep", "5") == 2
    err = capsys.readouterr().err
    assert "has another recipe: data.window was 16 and is now 8; optim.lr was 0.001 and is now 0.5." in err
    assert "run.keep" not in err
    assert go(here, "--run.keep", "5", "--run.log_every", "1") == 0
    (here / "text" / "0.txt").write_text("Other words.\n")
    capsys.readouterr()
    assert go(here) == 2
    assert "was started with another text" in capsys.readouterr().err


def test_going_on_with_other_validation_text(here, capsys):
    (here / "held-out.txt").write_text("Some text of its own.\n" * 9)
    flags = ["--data.validation", str(here / "held-out.txt")]
    assert go(here, *flags) == 0
    (here / "held-out.txt").write_text("Another text.\n" * 9)
    assert go(here, *flags) == 2
    assert "was started with another validation text;" in capsys.readouterr().err


def test_a_start_that_came_to_nothing_is_replaced(here, capsys):
    assert go(here, "--optim.precision", "half") == 2
    assert go(here, "--optim.lr", "1e30", "--run.evaluate_every", "0", "--run.log_every", "1") == 2
    assert "there is no checkpoint yet. A lower learning rate" in capsys.readouterr().err
    assert log.rows(here / "run")
    assert go(here, "--run.checkpoint_every", "0") == 0
    assert recipe.read(str(here / "run")).optim == recipe.read(str(here / "tiny.toml")).optim
    assert [row["step"] for row in log.rows(here / "run")] == [2, 2, 4, 4]
    # A model is not lost to a slip, even without a checkpoint.
    shutil.rmtree(here / "run" / "checkpoints")
    assert go(here, "--optim.lr", "0.5") == 2
    assert "has another recipe: optim.lr was 0.001 and is now 0.5" in capsys.readouterr().err


def test_a_start_that_came_to_nothing_leaves_no_tokenizer(here):
    pytest.importorskip("tokenizers", reason="the package 'tokenizers' (extra 'text') is not installed")
    assert go(here, "--data.tokenizer", "bpe", "--data.bpe_size", "280", "--optim.precision", "half") == 2
    assert tokens.load(here / "run").vocab_size == 280
    assert go(here) == 0
    assert recipe.read(str(here / "run")).model.vocab_size == tokens.load(here / "run").vocab_size == 257


def test_one_process_at_a_time(here, capsys, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="this system has no such locks")
    with command._alone(here / "run"):
        assert go(here) == 2
    err = capsys.readouterr().err
    assert f"another process is training in '{here / 'run'}'; wait for its end" in err
    assert err.count("\n") == 1
    assert not (here / "run" / "recipe.toml").exists()

    def unable(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unable)
        assert go(here) == 0
    assert go(here) == 0


def test_what_to_type(here, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(here / "an environment" / "bin" / "python"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert command.program() == "exgate", "there is nothing better"
    (here / "an environment" / "bin").mkdir(parents=True)
    (here / "an environment" / "bin" / "exgate").touch()
    assert command.program() == f"'{here}/an environment/bin/exgate'"
    monkeypatch.chdir(here)
    assert command.program() == "'an environment/bin/exgate'"
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert command.program() == "exgate"


def test_damaged_checkpoint(here, capsys):
    assert go(here, "--optim.steps", "4") == 0
    file = here / "run" / "checkpoints" / "step-00000004" / "training.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert go(here) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"'{file}' is damaged" in err
    assert "goes on from step-00000002" in err


def test_stopped_by_a_signal(here, capsys, interrupted):
    assert go(here) == 130
    again = f"Go on with: {command.program()} train"
    assert f"Stopped at step 2 of 4 by Ctrl-C; everything is saved. {again}" in capsys.readouterr().out
    interrupted.undo()
    assert go(here) == 0


def test_bpe_and_cache(here, capsys):
    pytest.importorskip("tokenizers", reason="the package 'tokenizers' (extra 'text') is not installed")
    flags = ["--data.tokenizer", "bpe", "--data.bpe_size", "280", "--data.cache", str(here / "cache")]
    assert go(here, *flags) == 0
    assert sorted(os.listdir(here / "cache")) == ["made-from.txt", "tokenizer.json", "train", "validation"]
    assert recipe.read(str(here / "run")).model.vocab_size == 280
    first = log.rows(here / "run")
    # A second run takes the tokens from the cache, the same ones: the text is not read again.
    for file in (here / "text").iterdir():
        file.unlink()
    assert go(here, *flags, "--run.folder", str(here / "second")) == 0
    assert log.rows(here / "second") == first
    capsys.readouterr()
    assert go(here, *flags, "--data.bpe_size", "270", "--run.folder", str(here / "third")) == 2
    assert "were made from other data; name another data.cache" in capsys.readouterr().err


def test_in_memory_and_from_the_cache_is_the_same(here):
    assert go(here, "--run.folder", str(here / "a")) == 0
    assert go(here, "--run.folder", str(here / "b"), "--data.cache", str(here / "cache")) == 0
    assert log.rows(here / "a") == log.rows(here / "b")


def test_validation_text(here):
    (here / "held-out.txt").write_text("Some text of its own.\n" * 20)
    (here / "more.txt").write_text("And more of it.\n")
    flags = ["--data.validation", str(here / "held-out.txt"), str(here / "more.txt")]
    one = recipe.read(str(here / "tiny.toml"), flags)
    material = command.prepare(one, here / "run")
    assert len(material.train.starts) == 12
    assert len(material.validation.starts) == 2
    one = recipe.read(str(here / "tiny.toml"), [*flags, "--data.validation_limit", "10"])
    assert len(command.prepare(one, here / "run").validation.starts) == 1
    one = recipe.read(str(here / "tiny.toml"), ["--data.validation_fraction", "0"])
    material = command.prepare(one, here / "run")
    assert (len(material.train.starts), material.validation) == (12, None)
    assert go(here, "--data.validation_fraction", "0") == 0
    assert not (here / "run" / "best").exists()


def test_standard_input(here, monkeypatch):
    words = "".join(f"line {i} of standard input\n" for i in range(60))
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=streams.BytesIO(words.encode())))
    said = []
    one = recipe.read(str(here / "tiny.toml"), ["--data.sources", "-"])
    material = command.prepare(one, here / "run", said.append)
    assert "is cut" in said[0]
    text = [bytes(corpus.document(0)).decode() for corpus in (material.train, material.validation)]
    assert "".join(text) == words


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--data.sources", "{here}/txt"], "no file or folder '{here}/txt'; did you mean '{here}/text'"),
        (["--data.sources", "{here}/empty.txt"], "'{here}/empty.txt' holds no text"),
        (["--data.window", "4000"], "fewer than one window"),
        (["--data.tokenizer", "{here}/tokenizer.jsn"], "no tokenizer file or folder"),
        (["--model.vocab_size", "50304"], "wrong tokenizer: it has 257 tokens, but the model's vocabulary has 50304"),
        (["--optim.schedule", "cosin"], "no schedule 'cosin'; choose one of cosine"),
        (["--optim.precision", "half"], "no precision 'half'"),
        (["--optim.microbatch", "-1"], "microbatch=-1; it should be 0 or more"),
        (["--optim.seed", "-1"], "seed=-1; it should be 0 or more"),
        (["--optim.weight_decay", "-0.1"], "weight_decay=-0.1; it should be 0 or more"),
        (["--run.device", "cuda:99"], "the device 'cuda:99' cannot be used here"),
        (["--run.device", "gpu"], "the device 'gpu' cannot be used here"),
        (["--run.folder", "{here}/empty.txt"], "'{here}/empty.txt' is a file; name a folder"),
    ],
)
def test_mistakes_are_one_sentence(here, capsys, flags, words):
    (here / "empty.txt").write_text("")
    assert go(here, *(flag.format(here=here) for flag in flags)) == 2
    err = capsys.readouterr().err
    assert words.format(here=here) in err
    assert err.count("\n") == 1


def test_checkpoints_without_a_recipe(here, capsys):
    assert go(here) == 0
    (here / "run" / "recipe.toml").unlink()
    assert go(here) == 2
    assert "has checkpoints but no recipe.toml" in capsys.readouterr().err


def test_no_recipe_is_the_small_one(monkeypatch, tmp_path):
    seen = []
    result = types.SimpleNamespace(stopped_by=None, step=1)
    monkeypatch.setattr(command, "run", lambda r: (seen.append(r), result)[1])
    assert main(["train"]) == 0
    assert main(["train", "--optim.steps", "7"]) == 0
    small = recipe.read("small")
    assert seen[0] == small
    assert seen[1] == dataclasses.replace(small, optim=dataclasses.replace(small.optim, steps=7))


def test_help_names_the_flag_of_another_model(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--model.name takes another model" in capsys.readouterr().out


def test_score_is_of_the_whole_validation_text(here):
    one = recipe.read(str(here / "tiny.toml"))
    material = command.prepare(one, here / "run")
    one = command.with_vocabulary(one, material.tokenizer)
    scores = command.scorer(material, one)(exgate.models.io.build(one.model))
    assert set(scores) == {"loss", "perplexity", "bits_per_byte"}
    assert scores["loss"] == pytest.approx(5.55, abs=0.1)
    assert isinstance(material.validation, Corpus)
    json.dumps(scores)
