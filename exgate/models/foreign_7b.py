"""Checkpoints of the 7B architecture: `xLSTMLarge` of the package `xlstm`, and `xLSTMForCausalLM` of `transformers`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exgate.models.weights import SPECIAL_TOKENS, Plan, Reading, Weights, same, special_tokens

# Our name within a block: theirs (transformers' older classes say query, key and value).
NAMES = {
    "layers.0.norm.weight": ("norm_mlstm.weight",),
    "layers.0.layer.q": ("mlstm_layer.q", "mlstm_layer.query"),
    "layers.0.layer.k": ("mlstm_layer.k", "mlstm_layer.key"),
    "layers.0.layer.v": ("mlstm_layer.v", "mlstm_layer.value"),
    "layers.0.layer.ogate": ("mlstm_layer.ogate_preact",),
    "layers.0.layer.igate": ("mlstm_layer.igate_preact",),
    "layers.0.layer.fgate": ("mlstm_layer.fgate_preact",),
    "layers.0.layer.out": ("mlstm_layer.out_proj",),
    "layers.1.norm.weight": ("norm_ffn.weight",),
    "layers.1.layer.down": ("ffn.proj_down",),
}
NORM_BIASES = ("norm_mlstm.bias", "norm_ffn.bias", "mlstm_layer.multihead_norm.bias")
PUBLISHED = {"soft_cap": 30.0, "gate_soft_cap": 15.0, "norm_eps": 1e-6, "cell_eps": 1e-6}
THEIR_FIELDS = {
    "soft_cap": "output_logit_soft_cap",
    "gate_soft_cap": "gate_soft_cap",
    "norm_eps": "norm_eps",
    "cell_eps": "eps",
}
PUBLISHED_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
# The vocabulary of the published checkpoints, whose special tokens are known.
PUBLISHED_VOCABULARY = 50304


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """What a checkpoint says."""
    names = {name.removeprefix("backbone."): name for name in weights.shapes}
    shapes = {short: weights.shapes[name] for short, name in names.items()}
    where = f"load: {weights.name}"
    blocks = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name)))
    embedding = "embedding.weight" if "embedding.weight" in shapes else "embeddings.weight"
    if embedding not in shapes or "out_norm.weight" not in shapes:
        missing = "the embedding" if embedding not in shapes else "out_norm.weight (add_out_norm=False?)"
        raise ValueError(f"{where}: {missing} is not there; exgate's xlstm_7b needs it. Such a model cannot be loaded.")
    head = names.get("lm_head.weight")
    tied = weights.tied(names[embedding], "lm_head.weight")
    plan: Plan = {
        "embed.weight": ((names[embedding],), same),
        "norm.weight": ((names["out_norm.weight"],), same),
    }
    if head and not tied:
        plan["head.weight"] = ((head,), same)
    for block in range(blocks):
        part = _block_plan({short: shapes[short] for short in shapes if short.startswith(f"blocks.{block}.")}, block)
        for key, (sources, join) in part.items():
            plan[key] = (tuple(names[source] for source in sources), join)
    used = {source for sources, _ in plan.values() for source in sources} | {"lm_head.weight"}
    for name in sorted(weights.shapes.keys() - used):
        short = name.removeprefix("backbone.")
        if not short.endswith((*NORM_BIASES, "out_norm.bias")) or weights.read(name).any():
            raise ValueError(f"{where}: exgate's xlstm_7b has no place for {name}. Such a model cannot be loaded.")
    fields = _fields(shapes, embedding, blocks) | {"tie_embeddings": tied}
    told, assumed = _config_fields(config)
    if tokens := special_tokens(config):
        told["special_tokens"] = tokens
    elif fields["vocab_size"] == PUBLISHED_VOCABULARY:
        assumed["special_tokens"] = dict(PUBLISHED_TOKENS)
    notes = [] if head else ["no lm_head, so the embedding is taken as the head"]
    return Reading("xlstm_7b", fields | told, assumed, plan, notes)


def _fields(shapes: Mapping[str, tuple[int, ...]], embedding: str, blocks: int) -> dict[str, Any]:
    """Everything about the architecture that tensors tell."""
    vocab_size, dim = shapes[embedding]
    layer = "blocks.0.mlstm_layer."
    v_dim = math.prod(shapes[f"{layer}multihead_norm.weight"])
    if f"{layer}qkv_opreact.weight" in shapes:
        qk_dim = shapes[f"{layer}qkv_opreact.weight"][0] // 2 - v_dim
        heads = shapes[f"{layer}ifgate_preact.bias"][0] // 2
    else:
        qk_dim = shapes.get(f"{layer}q.weight", shapes.get(f"{layer}query.weight", (0,)))[0]
        heads = shapes[f"{layer}igate_preact.bias"][0]
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        "blocks": blocks,
        "heads": heads,
        "qk_dim": qk_dim,
        "v_dim": v_dim,
        "ffn_dim": shapes["blocks.0.ffn.proj_down.weight"][1],
        "bias": "blocks.0.ffn.proj_down.bias" in shapes,
    }


def _block_plan(shapes: Mapping[str, tuple[int, ...]], block: int) -> Plan:
    p, ours = f"blocks.{block}.", f"stack.layers.{block}."
    plan: Plan = {}
    for name, candidates in NAMES.items():
        for leaf in ("",) if name.endswith("weight") else (".weight", ".bias"):
            for theirs in candidates:
                if p + theirs + leaf in shapes:
                    plan[ours + name + leaf] = ((p + theirs + leaf,), same)
    plan[f"{ours}layers.0.layer.norm.weight"] = ((f"{p}mlstm_layer.multihead_norm.weight",), Tensor.flatten)
    for leaf in ("weight", "bias"):
        pair, joined = (
            [f"{p}ffn.{name}.{leaf}" for name in ("proj_up_gate", "proj_up")],
            f"{p}ffn.proj_up_gate_z.{leaf}",
        )
        if joined in shapes:
            plan[f"{ours}layers.1.layer.up.{leaf}"] = ((joined,), same)
        elif pair[0] in shapes:
            plan[f"{ours}layers.1.layer.up.{leaf}"] = (tuple(pair), lambda *parts: torch.cat(parts))
        plan |= _fused_plan(shapes, p, ours, leaf)
    return plan


def _fused_plan(shapes: Mapping[str, tuple[int, ...]], p: str, ours: str, leaf: str) -> Plan:
    """q, k, v, o are rows of one matrix, and i, f of another (weight_mode="fused")."""
    plan: Plan = {}
    qkvo, gates = f"{p}mlstm_layer.qkv_opreact.{leaf}", f"{p}mlstm_layer.ifgate_preact.{leaf}"
    if qkvo in shapes:
        v_dim = math.prod(shapes[f"{p}mlstm_layer.multihead_norm.weight"])
        qk_dim = shapes[qkvo][0] // 2 - v_dim
        begin = 0
        for name, size in (("q", qk_dim), ("k", qk_dim), ("v", v_dim), ("ogate", v_dim)):
            plan[f"{ours}layers.0.layer.{name}.{leaf}"] = ((qkvo,), _rows(begin, begin + size))
            begin += size
    if gates in shapes:
        heads = shapes[gates][0] // 2
        plan[f"{ours}layers.0.layer.igate.{leaf}"] = ((gates,), _rows(0, heads))
        plan[f"{ours}layers.0.layer.fgate.{leaf}"] = ((gates,), _rows(heads, 2 * heads))
    return plan


def _config_fields(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a configuration says beyond the tensors, and what remains to be assumed."""
    told = {ours: config[theirs] for ours, theirs in THEIR_FIELDS.items() if theirs in config}
    told = {key: float(value or 0.0) for key, value in told.items()}  # a cap of None is none
    constants = {"input_gate": "exp", "ffn_activation": "silu"}
    kernels = [str(value) for key, value in config.items() if key.endswith("_kernel")]
    if any("siging" in kernel for kernel in kernels):
        constants["input_gate"] = "sigmoid"
    assumed = {key: value for key, value in PUBLISHED.items() if key not in told}
    return (told | constants, assumed) if config else (told, assumed | constants)


def _rows(begin: int, end: int):
    return lambda tensor: tensor[begin:end]


def to_transformers(
    model: str, config: Any, tensors: Mapping[str, Tensor], tokens: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The `config.json` and the tensors with which `transformers` builds the same model.

    Raises:
        ValueError: its class cannot express the model: which property, and what to do.
    """
    if reason := _not_in_transformers(model, config):
        raise ValueError(f"save: transformers' xLSTM cannot express this model: {reason} Use format='exgate'.")
    out = {
        "backbone.embeddings.weight": tensors["embed.weight"],
        "backbone.out_norm.weight": tensors["norm.weight"],
        # Its class has no tied head: the same numbers twice.
        "lm_head.weight": tensors["embed.weight"].clone() if config.tie_embeddings else tensors["head.weight"],
    }
    for block in range(config.blocks):
        p, ours = f"backbone.blocks.{block}.", f"stack.layers.{block}."
        for name, (theirs, *_) in NAMES.items():
            for leaf in ("",) if name.endswith("weight") else (".weight", ".bias"):
                if ours + name + leaf in tensors:
                    out[p + theirs + leaf] = tensors[ours + name + leaf]
        out[f"{p}mlstm_layer.multihead_norm.weight"] = tensors[f"{ours}layers.0.layer.norm.weight"]
        for leaf in ("weight", "bias") if config.bias else ("weight",):
            gate, up = tensors[f"{ours}layers.1.layer.up.{leaf}"].chunk(2)
            out[f"{p}ffn.proj_up_gate.{leaf}"], out[f"{p}ffn.proj_up.{leaf}"] = gate, up
        if config.bias:  # there, norms have a bias as soon as products have
            for name, like in zip(NORM_BIASES, ("norm_mlstm", "norm_ffn", "mlstm_layer.multihead_norm"), strict=True):
                out[p + name] = torch.zeros_like(out[f"{p}{like}.weight"])
    return _transformers_config(config, tensors["embed.weight"].dtype, tokens), out


def _not_in_transformers(model: str, config: Any) -> str | None:
    if model != "xlstm_7b":
        return f"it is of the architecture '{model}', and only 'xlstm_7b' has mLSTM without convolution."
    for letter, kind in (("s", "sLSTM"), ("a", "attention")):
        if letter in config.pattern:
            return f"pattern {config.pattern!r} has {kind} blocks ({letter})."
    for key, wanted in (("input_gate", "exp"), ("ffn_activation", "silu")):
        if getattr(config, key) != wanted:
            return f"{key} is {getattr(config, key)!r}, and there it is always {wanted!r}."
    for key in ("soft_cap", "gate_soft_cap"):
        if not getattr(config, key):
            return f"{key} is 0 (none), and there it is always on."
    for key in ("qk_dim", "v_dim"):
        if getattr(config, key) % 64:
            return f"{key}={getattr(config, key)} is not a multiple of 64, to which its cache rounds."
    return None


def _transformers_config(config: Any, dtype: torch.dtype, tokens: Mapping[str, Any]) -> dict[str, Any]:
    multiple = 64 if config.ffn_dim % 64 == 0 else 1
    return {
        "architectures": ["xLSTMForCausalLM"],
        "model_type": "xlstm",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "embedding_dim": config.dim,
        "num_hidden_layers": config.blocks,
        "num_blocks": config.blocks,
        "num_heads": config.heads,
        "use_bias": config.bias,
        "tie_word_embeddings": False,
        "add_out_norm": True,
        "norm_eps": config.norm_eps,
        "eps": config.cell_eps,
        "qk_dim_factor": _factor(config.qk_dim, config.dim),
        "v_dim_factor": _factor(config.v_dim, config.dim),
        "ffn_proj_factor": _ffn_factor(config.ffn_dim, config.dim, multiple),
        "ffn_round_up_to_multiple_of": multiple,
        "gate_soft_cap": config.gate_soft_cap,
        "output_logit_soft_cap": config.soft_cap,
        "weight_mode": "single",
        **{key: tokens.get(key) for key in SPECIAL_TOKENS},
    }


def _factor(width: int, dim: int) -> float:
    """The factor from which int(dim * factor) is this width."""
    factor = width / dim
    return factor if int(dim * factor) == width else math.nextafter(factor, math.inf)


def _ffn_factor(width: int, dim: int, multiple: int) -> float:
    """The factor from which its rule, which rounds in floating point, gets this width."""
    for factor in (2.667, width / dim, (width - multiple / 2) / dim, (width + 0.5) / dim):
        if int(((dim * factor + multiple - 1) // multiple) * multiple) == width:
            return factor
    raise AssertionError(f"no factor gives an FFN of {width} from {dim}")
