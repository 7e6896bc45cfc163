"""Checkpoints of Mamba: `MambaForCausalLM` of `transformers`, and the authors' own with almost the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exgate.models.weights import Plan, Reading, Weights, same, special_tokens

# Our name within a block: theirs.
NAMES = {
    "norm.weight": "norm.weight",
    "layer.in_proj.weight": "mixer.in_proj.weight",
    "layer.in_proj.bias": "mixer.in_proj.bias",
    "layer.conv.bias": "mixer.conv1d.bias",
    "layer.x_proj.weight": "mixer.x_proj.weight",
    "layer.dt_proj.weight": "mixer.dt_proj.weight",
    "layer.dt_proj.bias": "mixer.dt_proj.bias",
    "layer.A_log": "mixer.A_log",
    "layer.D": "mixer.D",
    "layer.out_proj.weight": "mixer.out_proj.weight",
    "layer.out_proj.bias": "mixer.out_proj.bias",
}
EMBEDDINGS = ("embeddings.weight", "embedding.weight")  # transformers', the authors'


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """What a checkpoint says.

    Raises:
        ValueError: a relative of Mamba that differs from it, or a tensor that our model has no place for.
    """
    names = {name.removeprefix("backbone."): name for name in weights.shapes}
    shapes = {short: weights.shapes[name] for short, name in names.items()}
    where = f"load: {weights.name}"
    _check_kind(where, shapes, config)
    embedding = next((name for name in EMBEDDINGS if name in shapes), None)
    if embedding is None or "norm_f.weight" not in shapes:
        missing = "norm_f.weight" if embedding else "the embedding"
        raise ValueError(f"{where}: {missing} is not there; exgate's mamba needs it. Restore the file.")
    blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("layers."))
    tied = weights.tied(names[embedding], "lm_head.weight")
    plan: Plan = {"embed.weight": ((names[embedding],), same), "norm.weight": ((names["norm_f.weight"],), same)}
    if not tied:
        plan["head.weight"] = (("lm_head.weight",), same)
    for block in range(blocks):
        ours, theirs = f"stack.layers.{block}.", f"layers.{block}."
        for name, source in NAMES.items():
            if theirs + source in names:
                plan[ours + name] = ((names[theirs + source],), same)
        if (conv := names.get(f"{theirs}mixer.conv1d.weight")) is not None:
            plan[f"{ours}layer.conv.weight"] = ((conv,), lambda weight: weight[:, 0])
            # A convolution without bias is one whose bias is zero.
            plan.setdefault(f"{ours}layer.conv.bias", ((conv,), lambda weight: weight.new_zeros(len(weight))))
    used = {source for sources, _ in plan.values() for source in sources} | {"lm_head.weight"}
    if odd := sorted(weights.shapes.keys() - used):
        raise ValueError(f"{where}: exgate's mamba has no place for {odd[0]}. Such a model cannot be loaded.")
    told: dict[str, Any] = {"tie_embeddings": tied, **_fields(shapes, embedding, blocks)}
    assumed = {}
    if "layer_norm_epsilon" in config:
        told["norm_eps"] = float(config["layer_norm_epsilon"])
    else:
        assumed["norm_eps"] = 1e-5
    if tokens := special_tokens(config):
        told["special_tokens"] = tokens
    return Reading("mamba", told, assumed, plan)


def _check_kind(where: str, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    """Refuse what has tensors of the same names, and computes something else with them."""
    kind = config.get("model_type", "mamba")
    if kind != "mamba" or any(name.endswith("mixer.A_log") and len(shape) != 2 for name, shape in shapes.items()):
        kind = kind if kind != "mamba" else "mamba2"
        raise ValueError(
            f"{where}: model_type is {kind!r}, which is not the Mamba of 2023 ('mamba'). It has no model here."
        )
    if (activation := config.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise ValueError(f"{where}: hidden_act is {activation!r}; exgate's mamba has 'silu'. It cannot be loaded.")


def _fields(shapes: Mapping[str, tuple[int, ...]], embedding: str, blocks: int) -> dict[str, Any]:
    """Everything about the architecture that tensors tell."""
    vocab_size, dim = shapes[embedding]
    mixer = "layers.0.mixer."
    inner_dim, state_size = shapes[f"{mixer}A_log"]
    return {
        "vocab_size": vocab_size,
        "dim": dim,
        "blocks": blocks,
        "state_size": state_size,
        "conv_kernel": shapes.get(f"{mixer}conv1d.weight", (0, 1, 1))[2],
        "inner_dim": inner_dim,
        "dt_rank": shapes.get(f"{mixer}dt_proj.weight", (0, 1))[1],
        "bias": f"{mixer}in_proj.bias" in shapes,
    }
