"""Our side of the comparison with `RwkvForCausalLM`, live (live_rwkv.py) and from the golden file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from exgate.ops import ConvState, WKVState
from exgate.ops.state import State
from tests.oracles import cases
from tests.oracles.compare import Arrays, Row, gradient_numbers, quietly

LABEL = "RwkvForCausalLM"
CASE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "vocab_size": cases.VOCABULARY,
    "intermediate_size": 24,
    "rescale_every": 1,  # halve hidden states at once, where they are halved at all
}


def rwkv(weights: dict[str, Tensor], arrays: Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """Its logits, gradients and state in our model. It computes in float32, and so do we."""
    folder.mkdir(parents=True)
    save_file({name: tensor.float().contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "rwkv", **facts["case"]}), encoding="utf-8")
    model, tokens, half = quietly(folder), cases.tokens(0), cases.HALF
    whole, _ = model(tokens)
    (whole * cases.probe(tuple(whole.shape), 7)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    ours, theirs = torch.from_numpy(gradient_numbers(gradients)), torch.from_numpy(arrays["gradients"]).double()
    with torch.no_grad():
        _, state = model(tokens[:, :half])
        continued, _ = model(tokens[:, half:], to_ours(torch.from_numpy(arrays["state"])))
    steps, before = [], None
    for token in tokens.unbind(1):
        logits, before = model(token[:, None], before)
        steps.append(logits)
    found = to_theirs(state)
    return [
        _row("logits / largest", whole, arrays["whole"]),
        _row("logits, step by step / largest", torch.cat(steps, 1), arrays["whole"]),
        _row("logits, from its state / largest", continued, arrays["whole"][:, half:]),
        _row("state after a prompt / largest", _plain(found), _plain(torch.from_numpy(arrays["state"]))),
        # In units of each gradient's length, which is the last of its numbers.
        Row(LABEL, "gradients", float(((ours - theirs).abs().amax(1) / theirs[:, -1]).max()), 1e-4),
    ]


def to_ours(state: Tensor) -> State:
    """Its five tensors, (5, B, D, blocks): last inputs of channel and time mixing, numerator, denominator, maximum."""
    blocks = [[part[..., block] for part in state] for block in range(state.shape[-1])]
    ours = (((ConvState(b[:, None]), WKVState(c, n, m)), ConvState(a[:, None])) for a, b, c, n, m in blocks)
    return ((), *ours)


def to_theirs(state: State) -> Tensor:
    """The way back."""
    blocks = [torch.stack([channel.x[:, 0], time.x[:, 0], *cell]) for (time, cell), channel in state[1:]]
    return torch.stack(blocks, -1)


def _plain(state: Tensor) -> Tensor:
    """The maximum is a gauge: numerator and denominator as they are meant."""
    return torch.cat([state[:2], state[2:4] * state[4].exp()])


def _row(what: str, ours: Tensor, theirs: Any) -> Row:
    theirs = torch.as_tensor(theirs).double()
    return Row(LABEL, what, float((ours.detach().double() - theirs).abs().max() / theirs.abs().max()), 1e-5)
