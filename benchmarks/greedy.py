"""Decoding with a model of `transformers`, step by step. Imports no exgate: peers may run where there is none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def stepper(model: Any, prompt: Tensor) -> Callable[[], None]:
    """Reads the prompt (B, T); each call of the answer takes the likeliest token, by a forward with a cache."""
    model.eval()
    name = "cache_params" if hasattr(model, "backbone") else "past_key_values"
    with torch.inference_mode():
        out = model(prompt, use_cache=True)
        token, cache = out.logits[:, -1:].argmax(-1), getattr(out, name)

    @torch.inference_mode()
    def step() -> None:
        nonlocal token, cache
        out = model(token, use_cache=True, **{name: cache})
        token, cache = out.logits[:, -1:].argmax(-1), getattr(out, name)

    return step
