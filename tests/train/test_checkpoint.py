"""Checkpoints: whole or not at all, checked when read, nothing older lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exgate.data.tokens import ByteTokenizer
from exgate.models import io, xlstm
from exgate.train import checkpoint


@pytest.fixture
def model():
    return io.build(xlstm.Config(vocab_size=257, dim=16, blocks=1, heads=2))


def save(run, step, model, **options):
    options = {"tensors": {"a": torch.arange(step)}, "record": {"note": step}, "keep": 3} | options
    return checkpoint.save(run, step, model, **options)


def test_a_checkpoint_is_a_model_folder(tmp_path, model):
    folder = save(tmp_path, 500, model, tokenizer=ByteTokenizer())
    assert folder == tmp_path / "checkpoints" / "step-00000500"
    assert sorted(file.name for file in folder.iterdir()) == [
        "checksums.json", "config.json", "model.safetensors", "tokenizer.json", "training.json", "training.safetensors",
    ]  # fmt: skip
    saved = checkpoint.load(folder)
    assert (saved.step, saved.record["note"], saved.tensors["a"].tolist()) == (500, 500, list(range(500)))
    again = io.load(folder)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    other = io.build(model.config)
    checkpoint.load_model(folder, other)
    assert torch.equal(other.embed.weight, model.embed.weight)
    with pytest.raises(ValueError, match="do not fit this model"):
        checkpoint.load_model(folder, io.build(xlstm.Config(vocab_size=257, dim=32, blocks=1, heads=2)))


def test_the_last_ones_are_kept(tmp_path, model):
    for step in (5, 10, 100, 1000):
        save(tmp_path, step, model, keep=2)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000100", "step-00001000"]
    assert checkpoint.newest(tmp_path).name == "step-00001000"
    assert checkpoint.newest(tmp_path / "nowhere") is None
    # The same step again takes the place of the first.
    save(tmp_path, 1000, model, record={"note": "second"})
    assert checkpoint.load(checkpoint.newest(tmp_path)).record["note"] == "second"


FILES = ["model.safetensors", "config.json", "training.safetensors", "training.json", "checksums.json"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_found_and_named(tmp_path, model, name, damage):
    save(tmp_path, 1, model)
    folder = save(tmp_path, 2, model)
    file = folder / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0x10
        file.write_bytes(data)
    words = rf"{name if name != 'checksums.json' else ''}.* is damaged .*Delete the folder '.*step-00000002'"
    with pytest.raises(checkpoint.Damaged, match=words + ".*goes on from step-00000001"):
        checkpoint.load(folder)
    shutil.rmtree(folder)
    assert checkpoint.load(checkpoint.newest(tmp_path)).step == 1


def test_damage_of_the_only_one(tmp_path, model):
    folder = save(tmp_path, 2, model)
    (folder / "checksums.json").write_text("{}")
    with pytest.raises(checkpoint.Damaged, match=r"checksums.json' is damaged.*there is no older one: .* starts anew"):
        checkpoint.load(folder)


def test_full_disk_loses_nothing(tmp_path, model, monkeypatch):
    save(tmp_path, 1, model)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for target, name in ((checkpoint, "save_file"), (os, "fsync"), (checkpoint, "_write_json")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(
                checkpoint.Unwritable, match=r"step 2 could not be written to .*: the disk is full\."
            ) as caught:
                save(tmp_path, 2, model, keep=1)
        assert "step-00000001' is whole" in str(caught.value)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(checkpoint.Unwritable, match="there is no earlier one"):
            save(tmp_path / "other", 2, model)


def test_best_takes_the_place_of_the_one_before(tmp_path, model, monkeypatch):
    checkpoint.save_best(tmp_path, model, record={"loss": 2.0}, tokenizer=ByteTokenizer())
    with torch.no_grad():
        model.embed.weight.zero_()
    checkpoint.save_best(tmp_path, model, record={"loss": 1.0})
    assert json.loads((tmp_path / "best" / "score.json").read_text()) == {"loss": 1.0}
    assert not load_file(tmp_path / "best" / "model.safetensors")["embed.weight"].any()
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    # Killed between the two renames: the old one comes back.
    os.rename(tmp_path / "best", tmp_path / ".old-best")
    (tmp_path / ".tmp-best").mkdir()
    checkpoint.tidy(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_damaged_best_names_the_way_back(tmp_path, model):
    save(tmp_path, 7, model)
    checkpoint.save_best(tmp_path, model, record={"loss": 1.0})
    (tmp_path / "best" / "model.safetensors").write_bytes(b"")
    with pytest.raises(checkpoint.Damaged, match=r"best/model.safetensors' is damaged.*step-00000007, is then taken"):
        checkpoint.model_folder(tmp_path)
    shutil.rmtree(tmp_path / "best")
    assert checkpoint.model_folder(tmp_path).name == "step-00000007"


def test_model_folder(tmp_path, model):
    assert checkpoint.model_folder(tmp_path / "not" / "here") == tmp_path / "not" / "here"
    with pytest.raises(FileNotFoundError, match="neither a model folder"):
        checkpoint.model_folder(tmp_path)
    (tmp_path / "recipe.toml").write_text("")
    with pytest.raises(FileNotFoundError, match="has written no checkpoint yet"):
        checkpoint.model_folder(tmp_path)
    first, second = save(tmp_path, 1, model), save(tmp_path, 2, model)
    assert checkpoint.model_folder(tmp_path) == second
    assert checkpoint.model_folder(first) == first
    (second / "model.safetensors").write_bytes(b"")
    assert checkpoint.model_folder(tmp_path) == first
    (first / "config.json").unlink()
    with pytest.raises(checkpoint.Damaged, match="step-00000001"):
        checkpoint.model_folder(tmp_path)
    checkpoint.save_best(tmp_path, model, record={})
    assert checkpoint.model_folder(tmp_path) == tmp_path / "best"


def test_random_states():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    random.gauss(0, 1), np.random.normal(), torch.randn(3)
    tensors, record = checkpoint.random_states()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    record = json.loads(json.dumps(record))

    def draw():
        return random.gauss(0, 1), random.random(), np.random.normal(), np.random.rand(), torch.randn(9).tolist()

    first = draw()
    assert draw() != first
    checkpoint.restore_random_states(tensors, record)
    assert draw() == first
