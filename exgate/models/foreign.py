"""Checkpoints of other packages: which one it is, what its tensors tell, and what has to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exgate.models import foreign_7b, foreign_llama, foreign_mamba, foreign_rwkv, foreign_xlstm
from exgate.models.weights import Reading, Weights


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """Recognise a checkpoint by the names of its tensors.

    Args:
        weights: the tensors, unread.
        config: what config.json or config.yaml beside them says; empty when there is none.
    Raises:
        ValueError: neither of the formats, or something in it that our models do not have.
    """
    names = weights.shapes.keys()
    if any(name.startswith("xlstm_block_stack.") for name in names):
        return foreign_xlstm.read(weights, config)
    if any(".mlstm_layer." in name for name in names):
        return foreign_7b.read(weights, config)
    if any(".self_attn." in name for name in names):
        return foreign_llama.read(weights, config)
    if any(name.endswith(".feed_forward.time_mix_key") for name in names):
        return foreign_rwkv.read(weights, config)
    if any(name.endswith(".mixer.A_log") for name in names):
        return foreign_mamba.read(weights, config)
    if "embed.weight" in names and any(name.startswith("stack.") for name in names):
        raise ValueError(
            f"load: {weights.name} has the tensors of an exgate model, but there is no config.json beside it that says "
            "which. Save with exgate.save(model, folder)."
        )
    raise ValueError(
        f"load: {weights.name} has tensors named {', '.join(sorted(names)[:3])} ...: neither an exgate model, nor "
        "xLSTMLMModel or xLSTMLarge (package xlstm), nor the xLSTM, Llama, Mamba or Rwkv ForCausalLM of transformers."
    )
