"""What the Llama of `transformers` computes: run in an environment where it is installed (see run.sh)."""

from __future__ import annotations

from typing import Any

import torch


def language_model(case: dict[str, Any], dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**case)).to(dtype).eval()


def lift(model: torch.nn.Module) -> torch.nn.Module:
    """The same model without the places that compute in float32 whatever the type of its weights."""

    def turn(x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = model.config.head_dim
        pair = torch.arange(0, size, 2, dtype=torch.float64)
        angle = position_ids[..., None].double() * model.config.rope_parameters["rope_theta"] ** (-pair / size)
        return torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()

    model.model.rotary_emb.forward = turn
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = lambda x, m=module: torch.nn.functional.rms_norm(
                x, m.weight.shape, m.weight, m.variance_epsilon
            )
    return model
