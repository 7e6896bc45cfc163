"""Models on disk: what is written is what is read, and what is damaged is named and never half read."""

from __future__ import annotations

import dataclasses
import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exgate.models import io, lstm, weights, xlstm, xlstm_7b
from exgate.models.compact import compact

CONFIGS = {
    "lstm": lstm.Config(vocab_size=11, dim=8, layers=2, hidden=8),
    "xlstm": xlstm.Config(vocab_size=11, dim=16, blocks=2, heads=2, pattern="ms"),
    "tied": xlstm.Config(vocab_size=11, dim=16, blocks=1, heads=2, tie_embeddings=True, norm_eps=3e-5, bias=True),
    "xlstm_7b": xlstm_7b.Config(
        vocab_size=11, dim=16, blocks=3, heads=2, qk_dim=8, v_dim=12, ffn_dim=20, pattern="ms", soft_cap=7.0
    ),
}
TOKENS = torch.arange(10).view(2, 5) % 11


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    io.save(io.build(CONFIGS["xlstm"]), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = io.build(CONFIGS[name])
    io.save(model, tmp_path / "deep" / "folder")
    again = io.load(tmp_path / "deep" / "folder")
    assert again.config == model.config
    assert again.training
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)
    assert torch.equal(model(TOKENS)[0], again(TOKENS)[0])
    assert sorted(file.name for file in (tmp_path / "deep" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_loaded_model_learns(saved: Path) -> None:
    model = io.load(saved)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, _ = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
    before.backward()
    optimizer.step()
    after, _ = model.loss(TOKENS[:, :-1], TOKENS[:, 1:])
    assert after < before
    # The file is what it was: the parameters are not a window into it.
    assert not torch.equal(load_file(saved / "model.safetensors")["head.weight"], model.head.weight)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_parameters_do_not_follow_the_file(suffix: str, saved: Path) -> None:
    file = saved / f"model{suffix}"
    if suffix == ".pt":
        torch.save(load_file(saved / "model.safetensors"), file)
        (saved / "model.safetensors").unlink()
    model = io.load(saved)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with open(file, "rb+") as opened:
        opened.write(bytes(file.stat().st_size))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_types_are_kept_or_chosen(dtype: torch.dtype, tmp_path: Path) -> None:
    model = io.build(CONFIGS["xlstm"], dtype=dtype)
    io.save(model, tmp_path)
    kept = io.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept.parameters(), strict=True))
    chosen = io.load(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in chosen.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in io.load(tmp_path, device="meta").parameters()} == {"meta"}


def test_a_field_can_be_overridden(saved: Path) -> None:
    assert io.load(saved, soft_cap=5).soft_cap == 5.0
    with pytest.raises(ValueError, match=r"unknown field 'sof_cap'. Did you mean 'soft_cap'"):
        io.load(saved, sof_cap=5)
    with pytest.raises(
        ValueError, match=r"embed.weight has shape \(11, 16\), but the model of this config has \(11, 32\)"
    ):
        io.load(saved, dim=32)


def test_the_file_system_is_the_registry() -> None:
    assert {"lstm", "seq2seq", "xlstm", "xlstm_7b"} <= set(io.names())
    assert {"io", "lm", "foreign", "weights"}.isdisjoint(io.names())
    assert set(io.names()) - set(io.language_models()) == {
        "dlinear",
        "lstm_direct",
        "naive",
        "patch_xlstm",
        "ridge",
        "seq2seq",
        "xlstm_time",
    }
    assert io.name(CONFIGS["tied"]) == "xlstm"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_goes_through_json(name: str) -> None:
    config = CONFIGS[name]
    assert io.config_from_dict(json.loads(json.dumps(io.config_to_dict(config)))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": 8}, 'the entry "model" is missing. It is one of: .*xlstm'),
        ({"model": "xlstn"}, "unknown model 'xlstn'. Did you mean 'xlstm'"),
        ({"model": "xlstm", "vocab_size": 5, "dim": 8, "blocks": 1, "head": 2}, "'head'. Did you mean 'heads'"),
        ({"model": "xlstm", "vocab_size": 5}, "no value for dim, blocks"),
        ({"model": "xlstm", "vocab_size": "5", "dim": 8, "blocks": 1}, "vocab_size is '5', but should be of type int"),
        ({"model": "xlstm", "vocab_size": 5, "dim": 8, "blocks": True}, "blocks is True, but should be of type int"),
        ({"model": "xlstm", "vocab_size": 5, "dim": 8, "blocks": 1, "pattern": "x"}, "pattern is 'x'"),
        ({"model": "io"}, "unknown model 'io'"),
    ],
)
def test_a_wrong_config_is_explained(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        io.config_from_dict(fields)


def test_whole_numbers_pass_for_floats() -> None:
    config = io.config_from_dict({"model": "xlstm", "vocab_size": 5, "dim": 8, "blocks": 1, "soft_cap": 30})
    assert config.soft_cap == 30.0
    assert isinstance(config.soft_cap, float)


def test_a_failed_write_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def full(tensors: dict, file: Path, **options: object) -> None:
        Path(file).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        io.save(io.build(CONFIGS["tied"]), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_named(keep: int, saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short .*Nothing was loaded"):
        io.load(saved)


def test_what_is_not_there_is_said(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file or folder .*nowhere"):
        io.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no file of tensors"):
        io.load(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes.txt is none of .safetensors"):
        io.load(tmp_path / "notes.txt")
    (saved / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config.json beside it"):
        io.load(saved)


def test_a_damaged_config_is_named(saved: Path) -> None:
    (saved / "config.json").write_text('{"model": "xlstm", "vocab')
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        io.load(saved)
    (saved / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds list, but should hold names and values"):
        io.load(saved)
    (saved / "config.json").write_text('{"model": "xlstm", "vocab_size": 11, "dim": 16, "block": 2}')
    with pytest.raises(ValueError, match=r"unknown field 'block'. Did you mean 'blocks'"):
        io.load(saved)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    head = tensors.pop("head.weight")
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"the model 'xlstm' needs head.weight"):
        io.load(saved)
    save_file({**tensors, "head.weight": head, "head.bias": head[0].clone()}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"no place for head.bias"):
        io.load(saved)
    save_file({**tensors, "head.weight": head.T.contiguous()}, saved / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"head.weight has shape \(16, 11\), but the model of this config has \(11, 16\)"
    ):
        io.load(saved)


def test_wrong_places_and_formats_are_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"is a file, but a model is a folder"):
        io.save(io.build(CONFIGS["xlstm"]), saved / "config.json")
    with pytest.raises(ValueError, match=r"unknown format 'transformer'. Did you mean 'transformers'"):
        io.save(io.build(CONFIGS["xlstm"]), saved, format="transformer")


def test_there_is_no_second_copy(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a tensor is read, the ones before it live on in the parameters alone."""
    read, alive = weights.Weights.read, []

    def watched(self: weights.Weights, name: str) -> torch.Tensor:
        assert not any(reference() is not None for reference in alive[:-1])
        tensor = read(self, name)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(weights.Weights, "read", watched)
    model = io.load(saved)
    assert len(alive) == len(model.state_dict())


def test_names_on_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def snapshot_download(name: str, **options: object) -> str:
        asked.append(name)
        if name != "someone/model":
            raise RuntimeError("cannot reach the hub\nand more")
        return str(saved)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert io.load("someone/model").config == CONFIGS["xlstm"]
    with pytest.raises(
        ValueError, match=r"the Hugging Face hub did not give it \(cannot reach the hub\). Check the name"
    ):
        io.load("someone/else")
    for path in ("nothing", "./a/b", "a/b/c", "/a/b"):
        with pytest.raises(ValueError, match="there is no file or folder"):
            io.load(path)
    assert asked == ["someone/model", "someone/else"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"Install the extra: pip install 'exgate\[hub\]'"):
        io.load("someone/model")


def test_a_run_stands_for_its_best_model(saved: Path, tmp_path: Path) -> None:
    saved.rename(tmp_path / "best")
    assert io.load(tmp_path).config == io.load(tmp_path / "best").config


@pytest.mark.parametrize("config", ["xlstm", {"model": "xlstm"}, xlstm.Config])
def test_what_is_no_config_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"build: .* is no model's config; it should be one, as exgate\.models\.xlstm"):
        io.build(config)


def test_what_cannot_be_saved_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save: Linear has no config"):
        io.save(torch.nn.Linear(2, 2), tmp_path / "new")
    with pytest.raises(ValueError, match="save: the weights of this model are stored in few bits"):
        io.save(compact(io.load(saved), "int8"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
