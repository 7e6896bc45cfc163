"""Whole models with random weights: a training step (forward, loss, backward), and tokens one after the other.

Weights in float32 are trained with autocast to bf16, weights in bf16 as they are: 7B in float32 would not fit beside
its gradients. An optimiser takes the same time for all, and is left out.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from benchmarks import greedy

Sizes = dict[str, int]


def make(maker: str, model: Sizes, device: str, dtype: str = "float32", **options: Any) -> Any:
    """The model that the function `maker` makes, built on the device."""
    kind = getattr(torch, dtype)
    before = torch.get_default_dtype()
    try:
        with torch.device(device):
            torch.set_default_dtype(kind)
            return globals()[maker](model, **options).to(device, kind)
    finally:
        torch.set_default_dtype(before)


def preset(_: Sizes, file: str, preset: str) -> Any:
    import exgate

    return exgate.build(getattr(import_module(f"exgate.models.{file}"), preset)(), device=torch.get_default_device())


def xlstm_7b(model: Sizes) -> Any:
    import exgate
    from exgate.models.xlstm_7b import Config

    where = {"device": torch.get_default_device(), "dtype": torch.get_default_dtype()}
    return exgate.build(Config(**model), **where)


def transformers_xlstm(model: Sizes, kernels: bool = False) -> Any:
    """Its own classes and products; or those of the packages `xlstm` and `mlstm_kernels`, with their Triton kernels."""
    import sys

    if not kernels:  # where `xlstm` is installed, transformers takes its classes
        sys.modules["xlstm"] = None  # type: ignore[assignment]
    from transformers import AutoModelForCausalLM, xLSTMConfig

    chosen = {"chunkwise_kernel": "chunkwise--triton_xl_chunk", "sequence_kernel": "native_sequence__triton",
              "step_kernel": "triton"}  # fmt: skip
    config = xLSTMConfig(
        vocab_size=model["vocab_size"], hidden_size=model["dim"], num_hidden_layers=model["blocks"],
        num_heads=model["heads"], qk_dim_factor=model["qk_dim"] / model["dim"],
        v_dim_factor=model["v_dim"] / model["dim"], ffn_proj_factor=model["ffn_dim"] / model["dim"],
        ffn_round_up_to_multiple_of=1, **(chosen if kernels else {}),
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def transformers_llama(model: Sizes) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=model["vocab_size"], hidden_size=model["dim"], intermediate_size=model["ffn_dim"],
        num_hidden_layers=model["blocks"], num_attention_heads=max(1, model["dim"] // 128),
        max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def facts(model: Any) -> dict[str, int]:
    """What a token reads: every weight but the embedding's table, of which it takes a row."""
    weights = dict(model.named_parameters())
    return {
        "parameters": sum(x.numel() for x in weights.values()),
        "weight_bytes": sum(x.nbytes for name, x in weights.items() if "embed" not in name),
    }


def step(model: Any, batch: int, steps: int) -> Callable[[], None]:
    device = next(model.parameters()).device
    tokens = torch.randint(model.config.vocab_size, (batch, steps + 1), device=device)
    model.train()
    mixed = next(model.parameters()).dtype == torch.float32

    def run() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            if hasattr(model, "loss"):
                loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
            else:  # it shifts the labels itself, and needs no cache
                loss = model(tokens[:, :-1], labels=tokens[:, :-1], use_cache=False).loss
        loss.backward()

    return run


def tokens(model: Any, batch: int, prompt: int, count: int) -> Callable[[], None]:
    """`count` likeliest tokens more at every call: the bare step with a state or cache, and argmax."""
    device = next(model.parameters()).device
    begin = torch.randint(model.config.vocab_size, (batch, prompt), device=device)
    step = _ours(model, begin) if hasattr(model, "loss") else greedy.stepper(model, begin)

    def run() -> None:
        for _ in range(count):
            step()

    return run


def _ours(model: Any, begin: Tensor) -> Callable[[], None]:
    """One token more, by the `Stepper` that `generate` steps by: its graph lasts over the calls."""
    from exgate.generate.replay import Stepper

    model.eval()
    with torch.inference_mode():
        logits, state = model(begin)
        token, take = logits[:, -1].argmax(-1), Stepper(model)

    @torch.inference_mode()
    def step() -> None:
        nonlocal token, state
        logits, state = take(token, state)
        token = logits.argmax(-1)

    return step
