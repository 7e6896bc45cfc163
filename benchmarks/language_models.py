"""Language models: ours, `transformers` xLSTM with the same weights, and `transformers` Llama of that size."""

import os
import sys
import tempfile
from typing import Any

import torch

import exgate
from exgate.models import xlstm_7b
from exgate.models.lm import LanguageModel

# Where the package `xlstm` is installed, transformers takes its classes instead of its own. This is what
# `pip install transformers` gives: its own.
sys.modules["xlstm"] = None  # type: ignore[assignment]
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

SMALL = xlstm_7b.Config(vocab_size=8192, dim=512, blocks=8, heads=4, qk_dim=256, v_dim=512, ffn_dim=1408)
LARGE = xlstm_7b.Config(vocab_size=50304, dim=768, blocks=12, heads=4, qk_dim=384, v_dim=768, ffn_dim=2048)
SIZES = {"small": SMALL, "large": LARGE}


def ours(config: xlstm_7b.Config) -> LanguageModel:
    torch.manual_seed(0)
    return exgate.build(config)


def their_xlstm(model: LanguageModel) -> Any:
    """`transformers` xLSTM with the weights of `model`, as its defaults run it on a CPU."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        exgate.save(model, folder, format="transformers")
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def their_llama(config: xlstm_7b.Config) -> Any:
    """`transformers` Llama of the same width, depth and inner width: as many parameters, up to a percent."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.dim // 64,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        )
    )


def compact(model: LanguageModel, weights: str) -> LanguageModel | None:
    """A copy with its matrices stored as "bf16" or "int8"; None while exgate cannot do that."""
    try:
        from exgate.models.compact import compact as convert
    except ImportError:
        return None
    return convert(model, weights)


def disagreement(model: LanguageModel, theirs: Any) -> float:
    """The largest difference of logits, of 200 tokens, over the largest logit. Raises where it is no rounding."""
    tokens = torch.randint(model.config.vocab_size, (2, 100))
    with torch.inference_mode():
        here, there = model.eval()(tokens)[0], theirs.eval()(tokens).logits
    worst = float((here - there).abs().max() / there.abs().max())
    if worst > 1e-4:
        raise AssertionError(f"the logits of transformers xLSTM differ by {worst:.1e} with the same weights")
    return worst


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
