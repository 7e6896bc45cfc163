"""State dicts of the package `xlstm` whose class would not be built here: odd widths, and what has to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from exgate.models import io, xlstm
from tests.oracles import cases, compare

TOKENS = torch.arange(6).view(2, 3)
MLSTM = {
    "proj_up": "up",
    "proj_down": "down",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "mlstm_cell.igate": "igate",
    "mlstm_cell.fgate": "fgate",
    "mlstm_cell.outnorm": "norm",
}
SLSTM = {"fgate": "igate", "igate": "fgate", "zgate": "zgate", "ogate": "ogate", "group_norm": "norm"}


def package(model: Any) -> dict[str, Tensor]:
    """A model of ours under the package's names, vanilla layout."""
    state, config = model.state_dict(), model.config
    out = {
        "token_embedding.weight": state["embed.weight"],
        "lm_head.weight": state["head.weight"],
        "xlstm_block_stack.post_blocks_norm.weight": state["norm.weight"],
    }
    for block, letter in enumerate((config.pattern * config.blocks)[: config.blocks]):
        p, cell, ffn = f"xlstm_block_stack.blocks.{block}.", *(f"stack.layers.{block}.layers.{k}." for k in (0, 1))
        out[f"{p}xlstm_norm.weight"] = state[f"{cell}norm.weight"]
        for theirs, name in (MLSTM if letter == "m" else SLSTM).items():
            for leaf in ("weight", "bias"):
                if f"{cell}layer.{name}.{leaf}" in state:
                    out[f"{p}xlstm.{theirs}.{leaf}"] = state[f"{cell}layer.{name}.{leaf}"]
        if f"{cell}layer.conv.weight" in state:
            out[f"{p}xlstm.conv1d.conv.weight"] = state[f"{cell}layer.conv.weight"][:, None]
            out[f"{p}xlstm.conv1d.conv.bias"] = state[f"{cell}layer.conv.bias"]
        if letter == "m":
            out[f"{p}xlstm.learnable_skip"] = state[f"{cell}layer.skip"]
            continue
        out[f"{p}xlstm.slstm_cell._recurrent_kernel_"] = state[f"{cell}layer.recurrent"].transpose(0, 1).flatten(1, 2)
        out[f"{p}xlstm.slstm_cell._bias_"] = state[f"{cell}layer.bias"].flatten()
        if config.ffn_factor:
            out[f"{p}ffn_norm.weight"] = state[f"{ffn}norm.weight"]
            out[f"{p}ffn.proj_up.weight"] = state[f"{ffn}layer.up.weight"]
            out[f"{p}ffn.proj_down.weight"] = state[f"{ffn}layer.down.weight"]
    return {name: tensor.clone() for name, tensor in out.items()}


def model(**fields: Any) -> Any:
    built = io.build(xlstm.Config(**{"vocab_size": 7, "dim": 16, "blocks": 2, "heads": 2, "pattern": "ms", **fields}))
    state = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    built.load_state_dict({name: tensor.float() for name, tensor in cases.fill(state, 3).items()})
    return built


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dim": 49, "heads": 1, "proj_factor": 1.3, "ffn_factor": 2.7, "qkv_block": 2},
        {"dim": 50, "proj_factor": 2.5, "ffn_factor": 2.5, "conv_kernel": 2},
        {"conv_kernel": 0},
        {"slstm_conv_kernel": 0},
        {"slstm_conv_kernel": 2},
        {"dim": 64, "pattern": "s", "ffn_factor": 0.0, "heads": 8},
        {"dim": 4, "heads": 4, "pattern": "s"},  # one cell per head
        {"pattern": "m", "blocks": 11, "bias": True, "qkv_block": 16},
    ],
)
@pytest.mark.parametrize("layout", ["vanilla", "cuda"])
def test_architectures_are_read_off_the_tensors(fields: dict[str, Any], layout: str, tmp_path: Path) -> None:
    ours = model(**fields)
    weights = package(ours)
    torch.save(weights if layout == "vanilla" else cases.to_cuda_layout(weights), tmp_path / "x.pt")
    again = compare.quietly(tmp_path / "x.pt")
    assert torch.equal(again(TOKENS)[0], ours(TOKENS)[0])
    assert again.num_parameters() == ours.num_parameters()


def test_the_cuda_bias_is_another_one(tmp_path: Path) -> None:
    """Both layouts have a bias of the same shape: only its order tells, and only for more than one head."""
    weights = package(model())
    turned = cases.to_cuda_layout(weights)
    bias = "xlstm_block_stack.blocks.1.xlstm.slstm_cell._bias_"
    assert turned[bias].shape == weights[bias].shape
    torch.save(turned, tmp_path / "x.pt")
    right = compare.quietly(tmp_path / "x.pt").state_dict()["stack.layers.1.layers.0.layer.bias"]
    torch.save({**turned, bias: weights[bias]}, tmp_path / "x.pt")
    wrong = compare.quietly(tmp_path / "x.pt").state_dict()["stack.layers.1.layers.0.layer.bias"]
    assert torch.equal(right.flatten(), weights[bias])
    assert not torch.equal(wrong, right)


def test_a_norm_without_weight_scales_by_one(tmp_path: Path) -> None:
    ours = model()
    weights = package(ours)
    del weights["xlstm_block_stack.blocks.1.xlstm.group_norm.weight"]
    torch.save(weights, tmp_path / "x.pt")
    with torch.no_grad():
        ours.stack.layers[1].layers[0].layer.norm.weight.zero_()
    assert torch.equal(compare.quietly(tmp_path / "x.pt")(TOKENS)[0], ours(TOKENS)[0])


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    def refused(weights: dict[str, Tensor], words: str) -> None:
        torch.save(weights, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=words):
            compare.quietly(tmp_path / "x.pt")

    stack = "xlstm_block_stack."
    weights = package(model())
    without = {name: tensor for name, tensor in weights.items() if name != f"{stack}post_blocks_norm.weight"}
    refused(without, "add_post_blocks_norm=False")
    refused({**weights, f"{stack}blocks.1.ffn.proj_up.bias": torch.ones(128)}, r"no place for .*1.ffn.proj_up.bias")
    refused({**weights, f"{stack}blocks.1.ffn.proj_down.weight": torch.ones(16, 40)}, "40 wide, not a multiple of 64")
    kernel = f"{stack}blocks.1.xlstm.slstm_cell._recurrent_kernel_"
    refused({**weights, kernel: torch.ones(2, 24, 8)}, r"shape \(2, 24, 8\), neither \(H, 4K, K\) nor \(H, K, 4K\)")
    one, other = package(model(heads=2)), package(model(heads=4))
    mixed = {name: (other if ".blocks.1." in name else one)[name] for name in one}
    refused(mixed, "block 1 has heads=4, but an earlier one has 2")
    gone = {name: tensor for name, tensor in weights.items() if not name.endswith("0.xlstm.proj_down.weight")}
    refused(gone, r"the model 'xlstm' needs stack.layers.0.layers.0.layer.down.weight")
    (tmp_path / "config.json").write_text('{"slstm_block": {"slstm": {"function": "lstm"}}}')
    refused(weights, "function='lstm'; only 'slstm'")
