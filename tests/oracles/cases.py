"""What is compared with the published packages: small models with weights that are drawn from seeds, not stored."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
BATCH, TIME, HALF, VOCABULARY = 2, 12, 5, 37
# Projections of each gradient that a golden file keeps.
PROBES = 4

# Each case: what the peer's configuration is given.
XLSTM: dict[str, dict[str, Any]] = {
    "mixed": {"pattern": "msm", "dim": 32, "heads": 4},
    "bias": {"pattern": "mm", "dim": 24, "heads": 8, "bias": True, "tied": True, "kernel": 3, "block": 8},
    "slstm": {"pattern": "ss", "dim": 20, "heads": 2, "kernel": 0, "act_fn": "relu^2"},
}
LARGE: dict[str, dict[str, Any]] = {
    mode: {
        "embedding_dim": 32,
        "num_heads": 2,
        "num_blocks": 2,
        "vocab_size": VOCABULARY,
        "weight_mode": mode,
        # Not the published widths and caps, so that a loader that assumes them fails.
        "v_dim_factor": 1.5,
        "ffn_proj_factor": 1.7,
        "ffn_round_up_to_multiple_of": 8,
        "gate_soft_cap": 5.0,
        "output_logit_soft_cap": 9.0,
        "norm_eps": 1e-5,
    }
    for mode in ("single", "fused")
}
TRANSFORMERS: dict[str, Any] = {
    "hidden_size": 128,
    "num_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": VOCABULARY,
    "ffn_proj_factor": 1.3,
    "gate_soft_cap": 5.0,
    "output_logit_soft_cap": 9.0,
    "bos_token_id": 3,
}


LLAMA: dict[str, dict[str, Any]] = {
    name: {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 56,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": groups,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        "tie_word_embeddings": tied,
    }
    for name, groups, tied in (("shared", 2, False), ("tied", 4, True))
}


def fill(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights in float64 that depend on name, shape and seed alone: matrices of unit gain, vectors around 0.3.

    mLSTM's input gates start rather closed and its forget gates open: only then do the details of its denominator (eps,
    the value of m) show in the logits.
    """
    weights = {}
    for name, shape in shapes.items():
        source = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        values = source.standard_normal(tuple(shape))
        values = values / np.sqrt(shape[-1]) if len(shape) > 1 else 0.3 + 0.5 * values
        if name.endswith(("igate.bias", "igate_preact.bias")):
            values = 2 * values - 5
        if name.endswith(("fgate.bias", "fgate_preact.bias")):
            values = 2 * values + 3
        if name.endswith("ifgate_preact.bias"):  # both in one
            values += np.repeat([-5, 3], len(values) // 2)
        weights[name] = torch.from_numpy(np.ascontiguousarray(values))
    return weights


def tokens(seed: int, time: int = TIME) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, VOCABULARY, (BATCH, time)))


def probe(shape: tuple[int, ...], seed: int) -> Tensor:
    """What logits and gradients are multiplied with, so that one number tells of all of them."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)))


def sigmoid_inputs() -> dict[str, Tensor]:
    """(B, H, T, K), as mlstm_kernels has them."""
    shapes = {"q": (1, 2, 9, 6), "k": (1, 2, 9, 6), "v": (1, 2, 9, 10), "i": (1, 2, 9), "f": (1, 2, 9)}
    return {name: probe(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def projections(gradient: Tensor) -> np.ndarray:
    """A few numbers that change when any entry of the gradient does, in units of the gradient's length."""
    flat = gradient.detach().double().reshape(-1)
    return np.array([float(flat @ probe(flat.shape, k)) for k in range(PROBES)] + [float(flat.norm())])


def to_cuda_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vanilla state dict of the `xlstm` package as its CUDA backend would have saved it."""
    out = dict(weights)
    for name, tensor in weights.items():
        if name.endswith("_recurrent_kernel_"):
            heads = tensor.shape[0]
            bias = name.replace("_recurrent_kernel_", "_bias_")
            out[name] = tensor.permute(0, 2, 1).contiguous()
            out[bias] = weights[bias].view(4, heads, -1).transpose(0, 1).reshape(-1)
    return out


def write(name: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """A golden file: numbers, and the names and shapes that the weights are drawn for."""
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / f"{name}.npz", facts=np.array(json.dumps(facts)), **arrays)


def read(name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files if key != "facts"}
        return arrays, json.loads(str(file["facts"]))
