"""Published packages' models in ours: the same logits, states and gradients as golden files say (see tests/oracles)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from exgate.models import io
from tests.oracles import cases, compare, compare_rwkv
from tests.oracles.compare import Row


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict, dict[str, Any]]:
    arrays, facts = cases.read(name)
    shapes = {key: tuple(shape) for key, shape in facts["shapes"].items()}
    weights = cases.fill(shapes, facts["seed"])
    if facts["case"].get("tied"):
        weights["lm_head.weight"] = weights["token_embedding.weight"]
    return weights, arrays, facts


def agree(rows: list[Row]) -> None:
    print(*rows, sep="\n")
    assert len(rows) > 3
    assert not [str(row) for row in rows if not row.worst <= row.bound]


@pytest.mark.parametrize("name", cases.XLSTM)
def test_xlstm_language_models(name: str, tmp_path: Path) -> None:
    agree(compare.xlstm(*golden(f"xlstm_{name}"), tmp_path))


@pytest.mark.parametrize("name", cases.LARGE)
def test_xlstm_large(name: str, tmp_path: Path) -> None:
    agree(compare.large(*golden(f"large_{name}"), tmp_path / "formats"))


def test_transformers(tmp_path: Path) -> None:
    agree(compare.transformers(*golden("transformers"), tmp_path))


def test_llama(tmp_path: Path) -> None:
    agree(compare.llama(*golden("llama"), tmp_path / "formats"))


def test_rwkv(tmp_path: Path) -> None:
    agree(compare_rwkv.rwkv(*golden("rwkv"), tmp_path / "rwkv"))


def test_sigmoid_input_gate() -> None:
    agree(compare.sigmoid_gate(cases.read("sigmoid_gate")[0]))


def test_golden_files_are_small() -> None:
    files = list(cases.GOLDEN.iterdir())
    assert {file.suffix for file in files} == {".npz"}
    assert sum(file.stat().st_size for file in files) < 400_000


@pytest.mark.parametrize("name", ["xlstm_mixed", "large_fused", "transformers"])
def test_every_weight_matters(name: str, tmp_path: Path) -> None:
    """The comparison would see any one parameter that is lost on the way."""
    weights, _, _ = golden(name)
    torch.save(weights, tmp_path / "x.pt")
    options = {} if name == "xlstm_mixed" else {"gate_soft_cap": 5.0, "soft_cap": 9.0, "norm_eps": 1e-5}
    with torch.no_grad():
        model = compare.quietly(tmp_path, **options)
        whole = model(cases.tokens(0))[0]
        for key, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.01)
            assert (model(cases.tokens(0))[0] - whole).abs().max() > 1e-8, key
            parameter.copy_(before)


def test_what_is_assumed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, _, _ = golden("xlstm_mixed")
    torch.save(weights, tmp_path / "x.pt")
    model = io.load(tmp_path / "x.pt")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    listed = "norm_eps=1e-05, cell_eps=1e-06, input_gate='exp', forget_gate='sigmoid', ffn_activation='gelu'"
    assert f"assumed as published: {listed} (" in said
    assert (model.config.ffn_activation, model.config.soft_cap) == ("gelu", 0.0)
    model = io.load(tmp_path / "x.pt", ffn_activation="relu", cell_eps=0.0)
    said = capsys.readouterr().err
    assert model.config.ffn_activation == "relu"
    assert "ffn_activation" not in said
    assert "cell_eps" not in said
    with pytest.raises(ValueError, match=r"unknown field 'ffn_activatio'. Did you mean 'ffn_activation'"):
        io.load(tmp_path / "x.pt", ffn_activatio="relu")


def test_assumptions_of_the_7b_architecture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, _, facts = golden("large_single")
    torch.save(weights, tmp_path / "x.pt")
    model = io.load(tmp_path / "x.pt")
    said = capsys.readouterr().err
    for words in ("soft_cap=30.0", "gate_soft_cap=15.0", "norm_eps=1e-06", "cell_eps=1e-06", "ffn_activation='silu'"):
        assert words in said
    assert (model.config.soft_cap, model.config.gate_soft_cap) == (30.0, 15.0)
    # A config beside it that says only some of it.
    (tmp_path / "config.json").write_text(json.dumps({"output_logit_soft_cap": 9, "gate_soft_cap": None}))
    model = io.load(tmp_path / "x.pt", norm_eps=1e-3)
    assert (model.config.soft_cap, model.config.gate_soft_cap, model.config.norm_eps) == (9.0, 0.0, 1e-3)
    assert "assumed as published: cell_eps=1e-06 (" in capsys.readouterr().err
    # One that says all of it, and that the kernels have a sigmoid gate.
    full = {"eps": 1e-5, "norm_eps": 1e-4, "chunkwise_kernel": "parallel--native_siging_autograd", **facts["case"]}
    (tmp_path / "config.json").write_text(json.dumps(full))
    model = io.load(tmp_path)
    assert capsys.readouterr().err == ""
    assert (model.config.cell_eps, model.config.input_gate) == (1e-5, "sigmoid")


def test_the_package_configuration_is_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights, _, _ = golden("xlstm_mixed")
    torch.save(weights, tmp_path / "x.pt")
    (tmp_path / "config.yaml").write_text(
        "model:\n  embedding_dim: 32\n  slstm_block:\n    feedforward:\n      act_fn: swish\n", encoding="utf-8"
    )
    assert io.load(tmp_path).config.ffn_activation == "silu"
    assert capsys.readouterr().err == ""


def test_neither_of_the_formats(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.ones(2), "decoder.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"has tensors named decoder.weight, encoder.weight .*neither an exgate model"):
        io.load(tmp_path)
