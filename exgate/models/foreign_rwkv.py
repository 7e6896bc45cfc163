"""Checkpoints of RWKV-4 as the package `transformers` keeps them: `RwkvForCausalLM`, and `RwkvModel` without a head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from exgate.models.weights import Plan, Reading, Weights, same, special_tokens

# Our name within a block: theirs. At inference their class halves hidden states every few blocks, and the weights of
# `output` and `value` with them, for float16. It does so after loading: files have the plain weights. All that it
# changes is how much eps weighs in its norms (1e-4 of the logits in the small model of our comparison).
TIME = {"mix_k": "time_mix_key", "mix_v": "time_mix_value", "mix_r": "time_mix_receptance"}
TIME |= {"decay": "time_decay", "bonus": "time_first", "out.weight": "output.weight"}
TIME |= {f"{name}.weight": f"{name}.weight" for name in ("key", "value", "receptance")}
CHANNEL = {"mix_k": "time_mix_key", "mix_r": "time_mix_receptance"}
CHANNEL |= {f"{name}.weight": f"{name}.weight" for name in ("key", "value", "receptance")}
NORMS = {"weight": "weight", "bias": "bias"}
# Of its last norm, whatever its config says.
NORM_EPS = 1e-5


def read(weights: Weights, config: Mapping[str, Any]) -> Reading:
    """What a checkpoint says."""
    names = {name.removeprefix("rwkv."): name for name in weights.shapes}
    where = f"load: {weights.name}"
    if "embeddings.weight" not in names:
        raise ValueError(f"{where}: the embedding is not there. Such a model cannot be loaded.")
    tied = weights.tied(names["embeddings.weight"], "head.weight")
    blocks = 1 + max(int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name)))
    renamed = {"embed.weight": "embeddings.weight"} | ({} if tied else {"head.weight": "head.weight"})
    parts = [("stack.layers.0.norm", "blocks.0.pre_ln", NORMS), ("norm", "ln_out", NORMS)]
    for block in range(blocks):
        ours, theirs = f"stack.layers.{block + 1}.layers", f"blocks.{block}"
        parts += [(f"{ours}.0.norm", f"{theirs}.ln1", NORMS), (f"{ours}.0.layer", f"{theirs}.attention", TIME)]
        parts += [(f"{ours}.1.norm", f"{theirs}.ln2", NORMS), (f"{ours}.1.layer", f"{theirs}.feed_forward", CHANNEL)]
    renamed |= {f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs, part in parts for a, b in part.items()}
    if missing := sorted(set(renamed.values()) - names.keys()):
        raise ValueError(f"{where}: {missing[0]} is not there. Such a model cannot be loaded.")
    if extra := sorted(names.keys() - set(renamed.values()) - {"head.weight"}):
        raise ValueError(f"{where}: exgate's rwkv4 has no place for {extra[0]}. Such a model cannot be loaded.")
    plan: Plan = {a: ((names[b],), _vector if ".time_mix" in b else same) for a, b in renamed.items()}
    vocab_size, dim = weights.shapes[names["embeddings.weight"]]
    eps = config.get("layer_norm_epsilon", NORM_EPS)
    inner = weights.shapes[names["blocks.0.attention.key.weight"]][0]
    for key, has, wants in (("layer_norm_epsilon", eps, NORM_EPS), ("attention_hidden_size", inner, dim)):
        if has != wants:
            raise ValueError(f"{where}: {key} is {has}, and in exgate's rwkv4 always {wants}. It cannot be loaded.")
    fields = {"vocab_size": vocab_size, "dim": dim, "blocks": blocks, "tie_embeddings": tied, "norm_eps": eps}
    fields["ffn_dim"] = weights.shapes[names["blocks.0.feed_forward.key.weight"]][0]
    if fields["ffn_dim"] == 4 * dim:
        fields["ffn_dim"] = None
    if tokens := special_tokens(config):
        fields["special_tokens"] = tokens
    notes = [] if "head.weight" in names else ["no head, so the embedding is taken as the head"]
    return Reading("rwkv4", fields, {}, plan, notes)


def _vector(mix: Tensor) -> Tensor:
    """(1, 1, D) -> (D,)."""
    return mix.flatten()
