"""RWKV-4 of `transformers`: what has to be refused, and what is read beside the weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exgate.models import io
from tests.oracles import cases
from tests.oracles.compare_rwkv import CASE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _, facts = cases.read("rwkv")
    weights = cases.fill({name: tuple(shape) for name, shape in facts["shapes"].items()}, facts["seed"])
    save_file({name: tensor.float() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    write(tmp_path, {})
    return tmp_path


def write(folder: Path, fields: dict) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", **CASE, **fields}))


def change(folder: Path, tensors: dict, *dropped: str) -> None:
    weights = load_file(folder / "model.safetensors") | tensors
    save_file({n: t for n, t in weights.items() if n not in dropped}, folder / "model.safetensors")


def test_every_weight_has_its_place(folder: Path, capsys):
    model = io.load(folder)
    assert capsys.readouterr().err == ""
    theirs = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert model.num_parameters() == theirs
    tokens = cases.tokens(0)
    with torch.no_grad():
        whole, _ = model(tokens)
        for name, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.1)
            assert (model(tokens)[0] - whole).abs().max() > 1e-5, name
            parameter.copy_(before)


def test_special_tokens_and_the_usual_width(folder: Path):
    write(folder, {"bos_token_id": 0, "eos_token_id": 1})
    for block in range(2):
        name = f"rwkv.blocks.{block}.feed_forward."
        change(folder, {f"{name}key.weight": torch.zeros(64, 16), f"{name}value.weight": torch.zeros(16, 64)})
    model = io.load(folder)
    assert model.special_tokens == {"bos_token_id": 0, "eos_token_id": 1}
    assert model.config.ffn_dim is None


def test_without_a_head_the_embedding_is_it(folder: Path, capsys):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n.removeprefix("rwkv."): t for n, t in weights.items() if n != "head.weight"}, folder / "model.safetensors"
    )
    model = io.load(folder)
    assert model.config.tie_embeddings
    torch.testing.assert_close(model.embed.weight.detach(), weights["rwkv.embeddings.weight"])
    assert "no head, so the embedding is taken as the head" in capsys.readouterr().err


def test_what_cannot_be_loaded(folder: Path):
    write(folder, {"layer_norm_epsilon": 1e-3})
    with pytest.raises(ValueError, match=r"layer_norm_epsilon is 0.001, and in exgate's rwkv4 always 1e-05"):
        io.load(folder)
    write(folder, {})
    change(folder, {"rwkv.extra": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"rwkv4 has no place for extra"):
        io.load(folder)
    change(folder, {}, "rwkv.extra", "rwkv.ln_out.bias")
    with pytest.raises(ValueError, match=r"ln_out.bias is not there"):
        io.load(folder)
