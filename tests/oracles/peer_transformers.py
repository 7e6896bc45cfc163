"""What `transformers` computes: run in an environment where it, and not `xlstm`, is installed (see run.sh)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.oracles import cases


def language_model(
    case: dict[str, Any], *, eps: float = 1e-6, dtype: torch.dtype = torch.float64, float32_norms: bool = False
) -> torch.nn.Module:
    from transformers import xLSTMConfig, xLSTMForCausalLM

    config = xLSTMConfig(**case, chunk_size=4, norm_reduction_force_float32=float32_norms, eps=eps)
    return xLSTMForCausalLM(config).to(dtype).eval()


def lift(model: torch.nn.Module) -> torch.nn.Module:
    """The same model without the places that compute in float32 whatever the type of its weights."""
    model.backbone.out_norm.force_float32_reductions = False
    for block in model.backbone.blocks:
        kernels = block.mlstm_layer.mlstm_backend._inference_fn.keywords
        for kernel in ("mlstm_sequence_kernel", "mlstm_step_kernel"):
            kernels[kernel].keywords["dtype_state"] = torch.float64
    return model


def logits(model: torch.nn.Module, tokens: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
    """From the last hidden state: its own head casts to float32. The cache is made in the type of the embeddings."""
    out = model.backbone(tokens, cache_params=cache, use_cache=True)
    cap = model.config.output_logit_soft_cap
    return cap * torch.tanh(model.lm_head(out.last_hidden_state) / cap), out.cache_params


def training_logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """As for a gradient: no cache, the chunkwise form alone."""
    for block in model.backbone.blocks:
        block.mlstm_layer.mlstm_backend.config.mode = "train"
    hidden = model.backbone(tokens, use_cache=False).last_hidden_state
    for block in model.backbone.blocks:
        block.mlstm_layer.mlstm_backend.config.mode = "inference"
    cap = model.config.output_logit_soft_cap
    return cap * torch.tanh(model.lm_head(hidden) / cap)


def steps(model: torch.nn.Module, tokens: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
    out = []
    with torch.no_grad():
        for token in tokens.unbind(1):
            y, cache = logits(model, token[:, None], cache)
            out.append(y)
    return torch.cat(out, 1), cache


def flat(cache: Any) -> dict[str, Tensor]:
    """The state by names (see states.py)."""
    parts = cache.rnn_state.items()
    return {f"{block}.{name}": t.clone() for block, part in parts for name, t in zip("cnm", part, strict=True)}


def cache_of(model: torch.nn.Module, state: dict[str, Tensor]) -> Any:
    from transformers.models.xlstm.modeling_xlstm import xLSTMCache

    cache = xLSTMCache(model.config, cases.BATCH, dtype=torch.float64)
    blocks = range(model.config.num_hidden_layers)
    cache.rnn_state = {block: tuple(state[f"{block}.{name}"].clone() for name in "cnm") for block in blocks}
    return cache
