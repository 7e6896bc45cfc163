"""Checkpoints of transformers' Llama: what is read, what is assumed, what is refused. Numbers: test_foreign.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from exgate.models import io, llama
from exgate.models.foreign_llama import _pairs
from tests.oracles import cases

SHAPES = {name: tuple(shape) for name, shape in cases.read("llama")[1]["shapes"].items()}
CONFIG = {**cases.LLAMA["shared"], "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": [2, 5]}


def write(folder: Path, config: dict[str, Any] | None = CONFIG, **tensors: Any) -> Path:
    """A folder as `save_pretrained` writes it, with tensors left out (None) or put in."""
    weights = {**cases.fill(SHAPES, 3), **tensors}
    save_file({n: t.contiguous() for n, t in weights.items() if t is not None}, folder / "model.safetensors")
    (folder / "config.json").unlink(missing_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_what_is_read(tmp_path: Path, capsys: Any) -> None:
    model = io.load(write(tmp_path))
    assert capsys.readouterr().err == ""
    assert model.config == llama.Config(
        vocab_size=37, dim=32, blocks=2, heads=4, kv_heads=2, ffn_dim=56, rope_theta=500.0, norm_eps=1e-3
    )
    assert model.special_tokens == {"bos_token_id": 1, "eos_token_id": [2, 5]}
    io.save(model, tmp_path / "ours")
    again = io.load(tmp_path / "ours")
    assert torch.equal(again(cases.tokens(0))[0], model(cases.tokens(0))[0])


def test_older_configs_and_what_they_leave_open(tmp_path: Path, capsys: Any) -> None:
    wanted = io.load(write(tmp_path))(cases.tokens(0))[0]
    older = {key: value for key, value in CONFIG.items() if key != "rope_parameters"}
    older |= {"rope_theta": 500, "rope_scaling": None}
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert torch.equal(io.load(write(tmp_path, older, **frequencies))(cases.tokens(0))[0], wanted)
    assert capsys.readouterr().err == ""
    model = io.load(write(tmp_path, {"num_attention_heads": 4, "num_key_value_heads": 2}), norm_eps=1e-3)
    assert (model.config.rope_theta, model.config.norm_eps) == (10000.0, 1e-3)
    assert "assumed as published: rope_theta=10000.0, ffn_activation='silu' (" in capsys.readouterr().err


def test_without_a_head_the_embedding_is_it(tmp_path: Path) -> None:
    """As the bare LlamaModel is saved, too: no head, no prefix."""
    model = io.load(write(tmp_path, **{"lm_head.weight": None}))
    assert model.config.tie_embeddings
    bare = {name.removeprefix("model."): tensor for name, tensor in cases.fill(SHAPES, 3).items()}
    del bare["lm_head.weight"]
    logits = model(cases.tokens(0))[0]
    save_file(bare, tmp_path / "model.safetensors")
    assert torch.equal(io.load(tmp_path)(cases.tokens(0))[0], logits)


def test_rows_are_paired_as_ours_are() -> None:
    rows = torch.arange(12.0)[:, None]  # two heads of 6
    assert _pairs(6)(rows)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_every_weight_matters(tmp_path: Path) -> None:
    with torch.no_grad():
        model = io.load(write(tmp_path))
        whole = model(cases.tokens(0))[0]
        for key, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.01)
            assert (model(cases.tokens(0))[0] - whole).abs().max() > 1e-8, key
            parameter.copy_(before)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "gemma"}, r"model_type is 'gemma', and only 'llama' is known"),
        ({"head_dim": 16}, r"head_dim is 16, and exgate's llama has hidden_size / num_attention_heads = 8"),
        ({"rope_parameters": {"rope_type": "llama3"}}, r"rotary positions are scaled \('llama3'\)"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, r"scaled \('linear'\)"),
    ],
)
def test_other_configs_are_refused(fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        io.load(write(tmp_path, {**CONFIG, **fields}))


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tensors do not tell how many heads a Llama has. Put its config.json"):
        io.load(write(tmp_path, None))
    bias = {"model.layers.1.self_attn.q_proj.bias": torch.ones(32)}
    with pytest.raises(ValueError, match=r"llama has no place for layers.1.self_attn.q_proj.bias"):
        io.load(write(tmp_path, **bias))
    for name in ("model.norm.weight", "model.layers.1.mlp.up_proj.weight"):
        with pytest.raises(ValueError, match=rf"{name.removeprefix('model.')} is not there"):
            io.load(write(tmp_path, **{name: None}))
    with pytest.raises(ValueError, match=r"layer.v.weight has shape \(32, 32\), but the model .* has \(16, 32\)"):
        io.load(write(tmp_path, **{"model.layers.0.self_attn.v_proj.weight": torch.ones(32, 32)}))
