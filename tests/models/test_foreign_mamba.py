"""Mamba of `transformers` in ours: what the golden file says, what is read off tensors, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from exgate.models import io
from tests.oracles import cases, compare, live_mamba


def golden() -> tuple[dict[str, torch.Tensor], compare.Arrays, dict[str, Any]]:
    arrays, facts = cases.read("mamba")
    return cases.fill({key: tuple(shape) for key, shape in facts["shapes"].items()}, facts["seed"]), arrays, facts


def test_the_same_numbers(tmp_path: Path) -> None:
    rows = live_mamba.agree(*golden(), tmp_path / "model")
    print(*rows, sep="\n")
    assert not [str(row) for row in rows if not row.worst <= row.bound]


def test_every_weight_matters(tmp_path: Path) -> None:
    weights, _, facts = golden()
    live_mamba.write(tmp_path / "model", weights, facts["case"])
    model = compare.quietly(tmp_path / "model")
    with torch.no_grad():
        whole = model(cases.tokens(0))[0]
        for key, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.01)
            assert (model(cases.tokens(0))[0] - whole).abs().max() > 1e-8, key
            parameter.copy_(before)


def test_what_is_told_and_what_is_assumed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, _, facts = golden()
    live_mamba.write(tmp_path / "model", weights, facts["case"])
    model = io.load(tmp_path / "model")
    assert capsys.readouterr().err == ""
    assert model.special_tokens == {"bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 5}
    config = model.config
    assert (config.dim, config.inner_dim, config.state_size, config.dt_rank, config.blocks) == (12, 36, 3, 1, 2)
    assert (config.conv_kernel, config.bias, config.norm_eps, config.tie_embeddings) == (3, True, 1e-3, False)
    # The authors' names, and a config of theirs, which does not tell the eps; a head that is the embedding.
    weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
    del weights["lm_head.weight"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"d_model": 12, "n_layer": 2, "rms_norm": true}')
    model = io.load(tmp_path)
    assert (model.config.tie_embeddings, model.config.norm_eps) == (True, 1e-5)
    assert "assumed as published: norm_eps=1e-05 (" in capsys.readouterr().err


def test_a_convolution_without_bias_has_one_of_zero(tmp_path: Path) -> None:
    weights, _, _ = golden()
    torch.save({name: w for name, w in weights.items() if "conv1d.bias" not in name}, tmp_path / "a.pt")
    assert not compare.quietly(tmp_path).stack.layers[1].layer.conv.bias.any()


def test_refusals(tmp_path: Path) -> None:
    weights, _, facts = golden()
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}

    def refused(words: str, change: dict[str, torch.Tensor], drop: str = "", **config: Any) -> None:
        folder = tmp_path / words[:9].strip(". ")
        kept = {name: tensor for name, tensor in {**weights, **change}.items() if name != drop}
        live_mamba.write(folder, kept, {**facts["case"], **config})
        with pytest.raises(ValueError, match=words):
            io.load(folder)

    refused("model_type is 'falcon_mamba', which is not the Mamba of 2023", {}, model_type="falcon_mamba")
    refused("hidden_act is 'gelu'; exgate's mamba has 'silu'", {}, hidden_act="gelu")
    refused("no place for backbone.layers.1.mixer.b_norm", {"backbone.layers.1.mixer.b_norm": torch.ones(3)})
    refused("norm_f.weight is not there", {}, drop="backbone.norm_f.weight")
    refused("the embedding is not there", {}, drop="backbone.embeddings.weight")
    refused("needs stack.layers.1.layer.D, not there", {}, drop="backbone.layers.1.mixer.D")
    save_file({"layers.0.mixer.A_log": torch.ones(4), "layers.0.mixer.D": torch.ones(4)}, tmp_path / "2.safetensors")
    with pytest.raises(ValueError, match="model_type is 'mamba2'"):
        io.load(tmp_path / "2.safetensors")
