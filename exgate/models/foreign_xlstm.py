"""State dicts of `xLSTMLMModel` of the package `xlstm` (the 2024 blocks): names, layouts, and what tensors tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exgate.models.weights import Plan, Reading, Weights, same

# Our name within a layer: theirs. Their `fgate` feeds the input gate, and their `igate` the forget gate.
MLSTM = {
    "up.weight": "proj_up.weight",
    "up.bias": "proj_up.bias",
    "conv.bias": "conv1d.conv.bias",
    "q.weight": "q_proj.weight",
    "q.bias": "q_proj.bias",
    "k.weight": "k_proj.weight",
    "k.bias": "k_proj.bias",
    "v.weight": "v_proj.weight",
    "v.bias": "v_proj.bias",
    "igate.weight": "mlstm_cell.igate.weight",
    "igate.bias": "mlstm_cell.igate.bias",
    "fgate.weight": "mlstm_cell.fgate.weight",
    "fgate.bias": "mlstm_cell.fgate.bias",
    "norm.weight": "mlstm_cell.outnorm.weight",
    "skip": "learnable_skip",
    "down.weight": "proj_down.weight",
    "down.bias": "proj_down.bias",
}
SLSTM = {
    "conv.bias": "conv1d.conv.bias",
    "igate.weight": "fgate.weight",
    "fgate.weight": "igate.weight",
    "zgate.weight": "zgate.weight",
    "ogate.weight": "ogate.weight",
    "norm.weight": "group_norm.weight",
}
ACTIVATIONS = {"relu^2": "relu2", "swish": "silu"}
STACK = "xlstm_block_stack."


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """What a checkpoint says."""
    shapes = weights.shapes
    where = f"load: {weights.name}"
    blocks = 1 + max(
        int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(STACK)}blocks\.(\d+)\.", name))
    )
    prefix = [f"{STACK}blocks.{block}." for block in range(blocks)]
    pattern = "".join("m" if f"{p}xlstm.learnable_skip" in shapes else "s" for p in prefix)
    vocab_size, dim = shapes["token_embedding.weight"]
    fields: dict[str, Any] = {"vocab_size": vocab_size, "dim": dim, "blocks": blocks, "pattern": pattern}
    if f"{STACK}post_blocks_norm.weight" not in shapes:
        raise ValueError(
            f"{where}: this model was built with add_post_blocks_norm=False, which exgate's xlstm has not."
        )
    for block, p in enumerate(prefix):
        told = _mlstm_fields(shapes, p, dim) if pattern[block] == "m" else _slstm_fields(shapes, p, dim)
        for key, value in told.items():
            if fields.setdefault(key, value) != value:
                raise ValueError(
                    f"{where}: block {block} has {key}={value}, but an earlier one has {fields[key]}; exgate's xlstm "
                    f"has one {key} for all blocks. Such a model cannot be loaded."
                )
    taps = fields.pop("slstm_conv_kernel", None)
    if fields.setdefault("conv_kernel", taps) != taps and taps is not None:
        fields["slstm_conv_kernel"] = taps
    plan: Plan = {
        "embed.weight": (("token_embedding.weight",), same),
        "norm.weight": ((f"{STACK}post_blocks_norm.weight",), same),
    }
    fields["tie_embeddings"] = weights.tied("token_embedding.weight", "lm_head.weight")
    if not fields["tie_embeddings"]:
        plan["head.weight"] = (("lm_head.weight",), same)
    for block, p in enumerate(prefix):
        plan |= _block_plan(shapes, p, f"stack.layers.{block}.", pattern[block])
    used = {source for sources, _ in plan.values() for source in sources} | {"lm_head.weight"}
    if extra := sorted(shapes.keys() - used):
        raise ValueError(
            f"{where}: exgate's xlstm has no place for {', '.join(extra[:4])}. Such a model cannot be loaded."
        )
    told, assumed = _config_fields(config, where, pattern)
    return Reading("xlstm", fields | told, assumed, plan)


def _mlstm_fields(shapes: Mapping[str, tuple[int, ...]], p: str, dim: int) -> dict[str, Any]:
    inner = shapes[f"{p}xlstm.learnable_skip"][0]
    kernel = shapes.get(f"{p}xlstm.conv1d.conv.weight")
    return {
        "heads": shapes[f"{p}xlstm.mlstm_cell.igate.bias"][0],
        "conv_kernel": kernel[2] if kernel else 0,
        "proj_factor": _factor(f"{p}xlstm.proj_up", inner, dim, 2.0),
        "qkv_block": shapes[f"{p}xlstm.q_proj.weight"][2],
        "bias": f"{p}xlstm.proj_up.bias" in shapes,
    }


def _slstm_fields(shapes: Mapping[str, tuple[int, ...]], p: str, dim: int) -> dict[str, Any]:
    kernel = shapes.get(f"{p}xlstm.conv1d.conv.weight")
    hidden = shapes.get(f"{p}ffn.proj_down.weight")
    return {
        "heads": shapes[f"{p}xlstm.slstm_cell._recurrent_kernel_"][0],
        "slstm_conv_kernel": kernel[2] if kernel else 0,
        "ffn_factor": _factor(f"{p}ffn.proj_up", hidden[1], dim, 1.3) if hidden else 0.0,
    }


def _factor(name: str, width: int, dim: int, published: float) -> float:
    """The factor from which our rule (dim times factor, up to a multiple of 64) gets this width."""
    for factor in (published, width / dim, (width - 32) / dim):
        if 64 * math.ceil(factor * dim / 64) == width:
            return factor
    raise ValueError(f"load: {name} is {width} wide, not a multiple of 64 as published. Such a model cannot be loaded.")


def _block_plan(shapes: Mapping[str, tuple[int, ...]], p: str, ours: str, letter: str) -> Plan:
    layer = f"{ours}layers.0.layer."
    plan: Plan = {f"{ours}layers.0.norm.weight": ((f"{p}xlstm_norm.weight",), same)}
    for name, theirs in (MLSTM if letter == "m" else SLSTM).items():
        if f"{p}xlstm.{theirs}" in shapes:
            plan[layer + name] = ((f"{p}xlstm.{theirs}",), same)
    if f"{p}xlstm.conv1d.conv.weight" in shapes:
        plan[f"{layer}conv.weight"] = ((f"{p}xlstm.conv1d.conv.weight",), _channel)
    if letter == "m":
        return plan
    kernel = f"{p}xlstm.slstm_cell._recurrent_kernel_"
    heads, rows, columns = shapes[kernel]
    vanilla = rows == 4 * columns  # (H, gate out, in); the CUDA backend has (H, in, gate out), and another bias
    size = columns if vanilla else rows
    if max(rows, columns) != 4 * size:
        raise ValueError(f"load: {kernel} has shape {shapes[kernel]}, neither (H, 4K, K) nor (H, K, 4K).")
    plan[f"{layer}recurrent"] = ((kernel,), _vanilla_recurrent if vanilla else _cuda_recurrent)
    bias = _vanilla_bias if vanilla else _cuda_bias
    plan[f"{layer}bias"] = ((f"{p}xlstm.slstm_cell._bias_",), lambda tensor: bias(tensor, heads, size))
    if f"{layer}norm.weight" not in plan:  # group_norm_weight=False: a factor of 1, kept as its distance from 1
        plan[f"{layer}norm.weight"] = ((), lambda: torch.zeros(heads * size))
    if f"{p}ffn.proj_up.weight" in shapes:
        plan[f"{ours}layers.1.norm.weight"] = ((f"{p}ffn_norm.weight",), same)
        plan[f"{ours}layers.1.layer.up.weight"] = ((f"{p}ffn.proj_up.weight",), same)
        plan[f"{ours}layers.1.layer.down.weight"] = ((f"{p}ffn.proj_down.weight",), same)
    return plan


def _config_fields(config: Mapping[str, Any], where: str, pattern: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a configuration of the package says beyond the tensors, and what remains to be assumed."""
    inner = config.get("model")
    config = inner if isinstance(inner, Mapping) else config  # the package's experiments keep it under "model"
    block = config.get("slstm_block") or {}
    function = (block.get("slstm") or {}).get("function", "slstm")
    if function != "slstm":
        raise ValueError(f"{where}: its config says function={function!r}; only 'slstm' can be loaded.")
    assumed: dict[str, Any] = {"norm_eps": 1e-5}
    if "m" in pattern:
        assumed |= {"cell_eps": 1e-6, "input_gate": "exp"}
    if "s" in pattern:
        assumed["forget_gate"] = "sigmoid"
    told: dict[str, Any] = {}
    if config:  # the package has these as constants, not as options
        told, assumed = assumed, {}
    if "s" in pattern:
        act = (block.get("feedforward") or {}).get("act_fn")
        (told if act else assumed)["ffn_activation"] = ACTIVATIONS.get(act, act) if act else "gelu"
    return told, assumed


def _channel(weight: Tensor) -> Tensor:
    """(D, 1, kernel) of a depthwise Conv1d -> (D, kernel)."""
    return weight[:, 0]


def _vanilla_recurrent(kernel: Tensor) -> Tensor:
    """(H, 4 x out, in) -> (4, H, out, in)."""
    return kernel.unflatten(1, (4, -1)).transpose(0, 1)


def _cuda_recurrent(kernel: Tensor) -> Tensor:
    """(H, in, 4 x out) -> (4, H, out, in)."""
    return kernel.unflatten(2, (4, -1)).permute(2, 0, 3, 1)


def _vanilla_bias(bias: Tensor, heads: int, size: int) -> Tensor:
    """Flat (4, H, K) -> (4, H, K)."""
    return bias.reshape(4, heads, size)


def _cuda_bias(bias: Tensor, heads: int, size: int) -> Tensor:
    """Flat (H, 4, K) -> (4, H, K)."""
    return bias.reshape(heads, 4, size).transpose(0, 1)
