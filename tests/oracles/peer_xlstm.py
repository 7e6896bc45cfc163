"""What the package `xlstm` computes: run in an environment where it is installed (see run.sh)."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.oracles import cases


def language_model(case: dict[str, Any], *, context: int = cases.TIME) -> torch.nn.Module:
    from xlstm import (
        FeedForwardConfig,
        mLSTMBlockConfig,
        mLSTMLayerConfig,
        sLSTMBlockConfig,
        sLSTMLayerConfig,
        xLSTMLMModel,
        xLSTMLMModelConfig,
    )

    kernel, heads, pattern = case.get("kernel", 4), case["heads"], case["pattern"]
    mlstm = mLSTMLayerConfig(conv1d_kernel_size=kernel, num_heads=heads, qkv_proj_blocksize=case.get("block", 4))
    slstm = sLSTMLayerConfig(backend="vanilla", conv1d_kernel_size=kernel, num_heads=heads)
    config = xLSTMLMModelConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mlstm) if "m" in pattern else None,
        slstm_block=sLSTMBlockConfig(slstm=slstm, feedforward=FeedForwardConfig(act_fn=case.get("act_fn", "gelu"))),
        context_length=context,
        num_blocks=len(pattern),
        embedding_dim=case["dim"],
        slstm_at=[at for at, letter in enumerate(pattern) if letter == "s"],
        vocab_size=cases.VOCABULARY,
        tie_weights=case.get("tied", False),
        bias=case.get("bias", False),
    )
    return xLSTMLMModel(config).double().eval()


def large(case: dict[str, Any], *, mode: str, eps: float = 1e-6, dtype: str = "float64") -> torch.nn.Module:
    from xlstm.xlstm_large.model import xLSTMLarge, xLSTMLargeConfig

    config = xLSTMLargeConfig(
        **case,
        chunkwise_kernel="chunkwise--native_autograd",
        sequence_kernel="native_sequence__native",
        step_kernel="native",
        mode=mode,
        chunk_size=4,
        return_last_states=True,
        norm_reduction_force_float32=False,
        autocast_kernel_dtype="float32",
        inference_state_dtype=dtype,
        eps=eps,
    )
    return xLSTMLarge(config).to(getattr(torch, dtype))


def filled(model: torch.nn.Module, weights: dict[str, Tensor]) -> torch.nn.Module:
    """The model with other weights. `strict`, so that every parameter is a drawn one."""
    model.load_state_dict(weights, strict=True)
    return model


def weights_of(model: torch.nn.Module, seed: int) -> dict[str, Tensor]:
    state = model.state_dict()
    weights = cases.fill({name: tuple(tensor.shape) for name, tensor in state.items()}, seed)
    if "lm_head.weight" in state and getattr(model.config, "tie_weights", False):
        weights["lm_head.weight"] = weights["token_embedding.weight"]
    return weights


def gradients(model: torch.nn.Module, logits: Tensor) -> dict[str, Tensor]:
    """Of a random combination of all logits, by state-dict names (a tied head has no gradient of its own)."""
    model.zero_grad()
    (logits * cases.probe(logits.shape, 7)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def without_eps(model: torch.nn.Module) -> None:
    """eps = 0 in each mLSTM of the 2024 blocks, where it is a default argument."""
    for module in model.modules():
        if hasattr(module, "backend_fn"):
            module.backend_fn = functools.partial(module.backend_fn, eps=0.0)


def flat_state(state: dict[str, Any], pattern: str) -> dict[str, Tensor]:
    """The nested state of `xLSTMLMModel.step` by names (see states.py)."""
    out = {}
    for block, letter in enumerate(pattern):
        part = state[f"block_{block}"]
        if part["conv_state"] is not None:
            out[f"{block}.conv"] = part["conv_state"][0].clone()
        if letter == "s":
            out[f"{block}.slstm"] = part["slstm_state"].clone()
        else:
            out |= {f"{block}.{name}": tensor.clone() for name, tensor in zip("cnm", part["mlstm_state"], strict=True)}
    return out


def nested_state(state: dict[str, Tensor], pattern: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for block, letter in enumerate(pattern):
        conv = state.get(f"{block}.conv")
        part: dict[str, Any] = {"conv_state": None if conv is None else (conv.clone(),)}
        if letter == "s":
            part["slstm_state"] = state[f"{block}.slstm"].clone()
        else:
            part["mlstm_state"] = tuple(state[f"{block}.{name}"].clone() for name in "cnm")
        out[f"block_{block}"] = part
    return out


def steps(model: torch.nn.Module, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    logits = []
    with torch.no_grad():
        for token in tokens.unbind(1):
            y, state = model.step(token[:, None], state=state)
            logits.append(y)
    return torch.cat(logits, 1), state


def large_steps(model: torch.nn.Module, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    logits = []
    with torch.no_grad():
        for token in tokens.unbind(1):
            y, state = model(token[:, None], state)
            logits.append(y)
    return torch.cat(logits, 1), state


def large_flat(state: dict[int, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    return {f"{block}.{name}": t.clone() for block, part in state.items() for name, t in zip("cnm", part, strict=True)}


def large_nested(state: dict[str, Tensor]) -> dict[int, tuple[Tensor, ...]]:
    blocks = 1 + max(int(name.partition(".")[0]) for name in state)
    return {block: tuple(state[f"{block}.{name}"].clone() for name in "cnm") for block in range(blocks)}


def cuda_layout_is_theirs(weights: dict[str, Tensor]) -> bool:
    """Whether `cases.to_cuda_layout` does what the package's own classes say about their two layouts."""
    from xlstm.blocks.slstm.cell import sLSTMCell_cuda, sLSTMCell_vanilla

    turned = cases.to_cuda_layout(weights)
    for name in weights:
        if not name.endswith("_recurrent_kernel_"):
            continue
        bias = name.replace("_recurrent_kernel_", "_bias_")
        heads, _, size = weights[name].shape
        sizes = {"num_heads": heads, "num_gates": 4, "num_gates_r": 4, "num_gates_t": 4, "head_dim": size}
        fake = SimpleNamespace(config=SimpleNamespace(**sizes, hidden_size=heads * size), head_dim=size)
        for key, to_outside, to_inside in (
            (name, sLSTMCell_vanilla._recurrent_kernel_int2ext, sLSTMCell_cuda._recurrent_kernel_ext2int),
            (bias, sLSTMCell_vanilla._bias_int2ext, sLSTMCell_cuda._bias_ext2int),
        ):
            if not torch.equal(to_inside(fake, to_outside(fake, weights[key])), turned[key]):
                return False
    return True


def sigmoid_gate(normalize: bool) -> dict[str, Tensor]:
    """Inputs, outputs and gradients of mlstm_kernels' parallel form with a sigmoid input gate, H before T there."""
    from mlstm_kernels.torch.parallel.native_siging import mlstm_siging_parallel__native_autograd

    inputs = {name: value.requires_grad_() for name, value in cases.sigmoid_inputs().items()}
    h = mlstm_siging_parallel__native_autograd(**inputs, normalize=normalize, eps=1e-6)
    (h * cases.probe(tuple(h.shape), 7)).sum().backward()
    return {"h": h.detach(), **{f"d{name}": tensor.grad for name, tensor in inputs.items()}}
