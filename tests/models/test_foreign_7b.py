"""Checkpoints of the 7B architecture to and fro: what is written for `transformers`, and what has to be refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from exgate.models import foreign, io, xlstm, xlstm_7b
from exgate.models.foreign_7b import _factor, _ffn_factor
from tests.oracles import cases

CONFIG = xlstm_7b.Config(
    vocab_size=13,
    dim=32,
    blocks=2,
    heads=4,
    qk_dim=64,
    v_dim=128,
    ffn_dim=50,
    soft_cap=9.0,
    gate_soft_cap=4.0,
    norm_eps=1e-5,
)
TOKENS = torch.arange(12).view(2, 6)


def model(**fields: Any) -> Any:
    built = io.build(dataclasses.replace(CONFIG, **fields))
    state = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    built.load_state_dict({name: tensor.float() for name, tensor in cases.fill(state, 3).items()})
    return built


@pytest.mark.parametrize("fields", [{}, {"bias": True}, {"tie_embeddings": True}, {"cell_eps": 1e-5, "ffn_dim": 64}])
def test_written_for_transformers_and_read_back(fields: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    ours = model(**fields)
    io.save(ours, tmp_path, format="transformers")
    again = io.load(tmp_path)
    assert again.config == ours.config
    assert torch.equal(again(TOKENS)[0], ours(TOKENS)[0])
    assert capsys.readouterr().err == ""
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["xLSTMForCausalLM"]
    assert (config["bos_token_id"], config["dtype"]) == (None, "float32")
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {"backbone.embeddings.weight", "lm_head.weight", "backbone.blocks.1.ffn.proj_up_gate.weight"} <= names
    assert ("backbone.blocks.0.norm_mlstm.bias" in names) == ours.config.bias


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pattern": "ms"}, r"pattern 'ms' has sLSTM blocks \(s\)"),
        ({"pattern": "ma"}, r"pattern 'ma' has attention blocks \(a\)"),
        ({"input_gate": "sigmoid"}, "input_gate is 'sigmoid', and there it is always 'exp'"),
        ({"ffn_activation": "gelu"}, "ffn_activation is 'gelu', and there it is always 'silu'"),
        ({"soft_cap": 0.0}, "soft_cap is 0"),
        ({"gate_soft_cap": 0.0}, "gate_soft_cap is 0"),
        ({"qk_dim": 32}, "qk_dim=32 is not a multiple of 64"),
        ({"v_dim": 96}, "v_dim=96 is not a multiple of 64"),
    ],
)
def test_what_transformers_cannot_express(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{words}.*Use format='exgate'"):
        io.save(model(**fields), tmp_path / "x", format="transformers")
    assert not (tmp_path / "x").exists()


def test_other_architectures_are_not_written_for_transformers(tmp_path: Path) -> None:
    other = io.build(xlstm.Config(vocab_size=5, dim=16, blocks=1, heads=2))
    with pytest.raises(ValueError, match=r"architecture 'xlstm', and only 'xlstm_7b' has mLSTM without convolution"):
        io.save(other, tmp_path, format="transformers")


def test_factors_give_back_the_widths() -> None:
    """By the rules of the class that reads them, for every width of a few models."""
    for dim in (96, 110, 768, 4096):
        for width in range(64, 3 * dim, 64 if dim > 200 else 1):
            assert int(dim * _factor(width, dim)) == width
            multiple = 64 if width % 64 == 0 else 1
            factor = _ffn_factor(width, dim, multiple)
            assert int(((dim * factor + multiple - 1) // multiple) * multiple) == width
    assert _ffn_factor(10944, 4096, 64) == 2.667


@pytest.mark.parametrize(
    ("vocab_size", "dim", "blocks", "heads", "ffn_dim", "tensors", "parameters"),
    [(50304, 4096, 32, 8, 10944, 483, 6_865_424_896), (50304, 768, 12, 6, 2112, 183, 164_110_224)],
)
def test_published_checkpoints_have_a_place(
    vocab_size: int, dim: int, blocks: int, heads: int, ffn_dim: int, tensors: int, parameters: int
) -> None:
    """The published 7B and 164M by their names and shapes, without their memory: every tensor is used, and fits."""
    shapes = {"backbone.embeddings.weight": (vocab_size, dim), "backbone.out_norm.weight": (dim,)}
    shapes["lm_head.weight"] = (vocab_size, dim)
    layer = {"q": dim // 2, "k": dim // 2, "v": dim, "ogate_preact": dim, "out_proj": dim}
    layer |= {"igate_preact": heads, "fgate_preact": heads}
    for block in range(blocks):
        p = f"backbone.blocks.{block}."
        shapes |= {f"{p}norm_mlstm.weight": (dim,), f"{p}norm_ffn.weight": (dim,)}
        shapes |= {f"{p}mlstm_layer.{name}.weight": (rows, dim) for name, rows in layer.items()}
        shapes |= {f"{p}mlstm_layer.{gate}gate_preact.bias": (heads,) for gate in "if"}
        shapes[f"{p}mlstm_layer.multihead_norm.weight"] = (dim,)
        shapes |= {f"{p}ffn.proj_up_gate.weight": (ffn_dim, dim), f"{p}ffn.proj_up.weight": (ffn_dim, dim)}
        shapes[f"{p}ffn.proj_down.weight"] = (dim, ffn_dim)
    assert len(shapes) == tensors
    weights: Any = SimpleNamespace(
        name="published",
        shapes=shapes,
        read=lambda name: torch.empty(shapes[name], device="meta"),
        tied=lambda embedding, head: False,
    )
    reading = foreign.read(weights, {})
    fields = {**reading.fields, **reading.assumed}
    assert fields.pop("special_tokens")["bos_token_id"] == 0
    config = io.config_from_dict({"model": reading.model, **fields})
    if dim == 4096:
        assert config == xlstm_7b.xlstm_7b()
    assert io._filled(config, weights, reading.plan, torch.device("meta"), None).num_parameters() == parameters
    used = [source for sources, _ in reading.plan.values() for source in sources]
    assert sorted(used) == sorted(shapes)


def test_special_tokens_travel(tmp_path: Path, capsys: Any) -> None:
    io.save(model(), tmp_path / "hf", format="transformers")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config |= {"bos_token_id": 3, "eos_token_id": [4, 5]}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    wanted = {"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": None}
    there = io.load(tmp_path / "hf")
    assert there.special_tokens == wanted
    io.save(there, tmp_path / "own")
    again = io.load(tmp_path / "own")
    assert again.special_tokens == wanted
    io.save(again, tmp_path / "back", format="transformers")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == [4, 5]
    assert io.load(tmp_path / "hf", special_tokens={"bos_token_id": 1}).special_tokens == {"bos_token_id": 1}
    # The published vocabulary without a config: its special tokens are known, and said.
    large = model(vocab_size=50304, dim=16, blocks=1)
    io.save(large, tmp_path / "large", format="transformers")
    (tmp_path / "large" / "config.json").unlink()
    capsys.readouterr()
    assert io.load(tmp_path / "large").special_tokens["bos_token_id"] == 0
    assert "special_tokens={'bos_token_id': 0, 'eos_token_id': 2, 'pad_token_id': 1}" in capsys.readouterr().err


def test_without_a_head_the_embedding_is_it(tmp_path: Path, capsys: Any) -> None:
    ours = model(tie_embeddings=True)
    io.save(ours, tmp_path, format="transformers")
    tensors = load_file(tmp_path / "model.safetensors")
    # As the bare xLSTMModel is saved: no head, no prefix.
    bare = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    save_file(bare, tmp_path / "model.safetensors")
    again = io.load(tmp_path)
    assert again.config.tie_embeddings
    assert torch.equal(again(TOKENS)[0], ours(TOKENS)[0])
    assert "no lm_head, so the embedding is taken as the head" in capsys.readouterr().err


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    io.save(model(bias=True), tmp_path, format="transformers")
    tensors = load_file(tmp_path / "model.safetensors")

    def refused(changed: dict[str, torch.Tensor], words: str) -> None:
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=words):
            io.load(tmp_path)

    norm = "backbone.blocks.1.norm_ffn.bias"
    refused({**tensors, norm: torch.ones(32)}, rf"no place for {norm}")
    refused({**tensors, "backbone.blocks.0.extra": torch.zeros(3)}, r"no place for backbone.blocks.0.extra")
    without = {name: tensor for name, tensor in tensors.items() if name != "backbone.out_norm.weight"}
    refused(without, r"out_norm.weight \(add_out_norm=False\?\) is not there")
    without = {name: tensor for name, tensor in tensors.items() if name != "backbone.embeddings.weight"}
    refused(without, r"the embedding is not there")
    without = {name: tensor for name, tensor in tensors.items() if not name.endswith("0.mlstm_layer.v.weight")}
    refused(without, r"the model 'xlstm_7b' needs stack.layers.0.layers.0.layer.v.weight")
    changed = "backbone.blocks.1.mlstm_layer.k.weight"
    refused(
        {**tensors, changed: torch.ones(32, 32)}, r"1.layers.0.layer.k.weight has shape \(32, 32\), .* has \(64, 32\)"
    )
