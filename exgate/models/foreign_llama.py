"""Checkpoints of `LlamaForCausalLM` of the package `transformers`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from exgate.models.weights import Plan, Reading, Weights, same, special_tokens

# Our name within a block: theirs. q, k and the FFN's `up` are made of theirs below.
NAMES = {
    "layers.0.norm.weight": "input_layernorm.weight",
    "layers.0.layer.v.weight": "self_attn.v_proj.weight",
    "layers.0.layer.out.weight": "self_attn.o_proj.weight",
    "layers.1.norm.weight": "post_attention_layernorm.weight",
    "layers.1.layer.down.weight": "mlp.down_proj.weight",
}


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """What a checkpoint says.

    Raises:
        ValueError: the config is missing or is not Llama's (says in what), or a tensor has no place.
    """
    where = f"load: {weights.name}"
    if reason := _refuses(config):
        raise ValueError(f"{where}: {reason}")
    names = {name.removeprefix("model."): name for name in weights.shapes}
    shapes = {short: weights.shapes[name] for short, name in names.items()}
    if missing := {"embed_tokens.weight", "norm.weight", "layers.0.mlp.down_proj.weight"} - shapes.keys():
        raise ValueError(f"{where}: {min(missing)} is not there; a Llama has it. Copy the folder again.")
    blocks = 1 + max(int(match[1]) for name in shapes if (match := re.match(r"layers\.(\d+)\.", name)))
    heads = config["num_attention_heads"]
    vocab_size, dim = shapes["embed_tokens.weight"]
    tied = bool(config.get("tie_word_embeddings")) or weights.tied(names["embed_tokens.weight"], "lm_head.weight")
    plan: Plan = {"embed.weight": (("embed_tokens.weight",), same), "norm.weight": (("norm.weight",), same)}
    if not tied:
        plan["head.weight"] = (("lm_head.weight",), same)
    for block in range(blocks):
        plan |= _block_plan(block, dim // heads)
    # Older files have the frequencies of the rotation too.
    known = {source for sources, _ in plan.values() for source in sources} | {"lm_head.weight"}
    extra = sorted(name for name in shapes.keys() - known if not name.endswith("rotary_emb.inv_freq"))
    if extra:
        raise ValueError(f"{where}: exgate's llama has no place for {extra[0]}. Such a model cannot be loaded.")
    if absent := sorted(known - shapes.keys() - {"lm_head.weight"}):
        raise ValueError(f"{where}: {absent[0]} is not there. Copy the folder again.")
    fields = {
        "vocab_size": vocab_size,
        "dim": dim,
        "blocks": blocks,
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "ffn_dim": shapes["layers.0.mlp.down_proj.weight"][1],
        "tie_embeddings": tied,
    }
    told, assumed = _config_fields(config)
    named = {key: (tuple(names[source] for source in sources), join) for key, (sources, join) in plan.items()}
    return Reading("llama", fields | told, assumed, named)


def _refuses(config: Mapping[str, Any]) -> str | None:
    """Why these tensors cannot be read as a Llama's with this config."""
    if "num_attention_heads" not in config:
        return "tensors do not tell how many heads a Llama has. Put its config.json (num_attention_heads) beside them."
    kind = config.get("model_type", "llama")
    if kind != "llama":  # Gemma and others have tensors of the same names, and mean something else
        return f"model_type is {kind!r}, and only 'llama' is known of its kind. Such a model cannot be loaded."
    size = config["hidden_size"] // config["num_attention_heads"] if "hidden_size" in config else None
    if size is not None and config.get("head_dim") not in (None, size):
        return f"head_dim is {config['head_dim']}, and exgate's llama has hidden_size / num_attention_heads = {size}."
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        return f"rotary positions are scaled ({scaling!r}), which exgate's llama does not do."
    return None


def _config_fields(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the configuration says beyond the tensors, and what remains to be assumed."""
    rope = config.get("rope_parameters") or {}
    said = {
        "norm_eps": config.get("rms_norm_eps"),
        "rope_theta": rope.get("rope_theta", config.get("rope_theta")),
        "ffn_activation": config.get("hidden_act"),
    }
    told: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    published = {"norm_eps": 1e-6, "rope_theta": 10000.0, "ffn_activation": "silu"}
    assumed = {key: value for key, value in published.items() if key not in told}
    if tokens := special_tokens(config):
        told["special_tokens"] = tokens
    return told, assumed


def _block_plan(block: int, size: int) -> Plan:
    """`size` is K, which tells where a head's rows end."""
    p, ours = f"layers.{block}.", f"stack.layers.{block}."
    plan: Plan = {ours + name: ((p + theirs,), same) for name, theirs in NAMES.items()}
    for name in ("q", "k"):
        plan[f"{ours}layers.0.layer.{name}.weight"] = ((f"{p}self_attn.{name}_proj.weight",), _pairs(size))
    gate, up = (f"{p}mlp.{name}_proj.weight" for name in ("gate", "up"))
    plan[f"{ours}layers.1.layer.up.weight"] = ((gate, up), lambda *parts: torch.cat(parts))
    return plan


def _pairs(size: int):
    """Their rotation turns the rows (i, i + K/2) of a head, ours (2i, 2i+1): the same pairs in another order."""
    return lambda weight: weight.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)
