"""`MambaForCausalLM` of `transformers`: compared live, and its golden file written (run by run.sh).

Its plain PyTorch path, taken without a GPU, computes A, states, norms and logits in float32 whatever its weights are.
`lifted` moves those places to float64, so that every difference shows; as it is, it is compared in float32.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from exgate.ops import ConvState, SSMState
from exgate.ops.state import State
from tests.oracles import cases, compare
from tests.oracles.compare import Row

SEED = 5
CASE: dict[str, Any] = {
    "hidden_size": 12,
    "state_size": 3,
    "num_hidden_layers": 2,
    "vocab_size": cases.VOCABULARY,
    "conv_kernel": 3,
    "expand": 3,
    "use_bias": True,
    "layer_norm_epsilon": 1e-3,  # not the default, so that a loader that assumes it fails
    "tie_word_embeddings": False,
    "residual_in_fp32": False,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": 5,
}


def write(path: Path, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """A folder as `save_pretrained` writes it."""
    path.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path / "model.safetensors")
    text = json.dumps({"model_type": "mamba", "hidden_act": "silu", **config})
    (path / "config.json").write_text(text, encoding="utf-8")


def agree(weights: dict[str, Tensor], arrays: compare.Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """Our logits, states and gradients beside those of `transformers` in float64, relative to the largest."""
    write(folder, weights, facts["case"])
    model, tokens, half = compare.quietly(folder), cases.tokens(0), cases.HALF
    with torch.no_grad():
        state, steps = None, []
        for token in tokens.unbind(1):
            logits, state = model(token[:, None], state)
            steps.append(logits)
        _, after = model(tokens[:, :half])
        continued, _ = model(tokens[:, half:], ours_of(arrays))
        single, _ = compare.quietly(folder, dtype=torch.float32)(tokens)
    logits, _ = model(tokens)
    (logits * cases.probe(tuple(logits.shape), 7)).sum().backward()
    gradients = compare.gradient_numbers({name: parameter.grad for name, parameter in model.named_parameters()})
    worst = np.abs(gradients - arrays["gradients"]).max(1) / arrays["gradients"][:, -1]
    there = theirs_of(after)
    rows = [
        ("logits, whole sequence", _relative(logits, arrays["whole"])),
        ("logits, step by step", _relative(torch.cat(steps, 1), arrays["whole"])),
        ("logits, from its state", _relative(continued, arrays["whole"][:, half:])),
        ("state after a prompt, to its form", max(_relative(there[name], arrays[f"state/{name}"]) for name in there)),
        ("gradients", float(worst.max())),
    ]
    single_row = Row("MambaForCausalLM", "logits in float32 / largest", _relative(single, arrays["whole"]), 1e-5)
    return [*(Row("MambaForCausalLM", *row, 1e-10) for row in rows), single_row]


def theirs_of(state: State) -> dict[str, Tensor]:
    """Our state by their names and in their layout: the window with time last."""
    out = {}
    for block, (window, cell) in enumerate(state):
        out[f"{block}.conv"], out[f"{block}.ssm"] = window.x.transpose(1, 2), cell.h
    return out


def ours_of(arrays: compare.Arrays) -> State:
    parts = {
        name.removeprefix("state/"): torch.from_numpy(a) for name, a in arrays.items() if name.startswith("state/")
    }
    return tuple(
        (ConvState(parts[f"{n}.conv"].transpose(1, 2)), SSMState(parts[f"{n}.ssm"])) for n in range(len(parts) // 2)
    )


def _relative(ours: Tensor, theirs: np.ndarray) -> float:
    return float((ours.detach().double() - torch.from_numpy(theirs).double()).abs().max() / np.abs(theirs).max())


@contextlib.contextmanager
def lifted(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model in float64 throughout."""
    model.double()
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = lambda x, m=module: (
                m.weight * x * torch.rsqrt(x.square().mean(-1, True) + m.variance_epsilon)
            )
    with mock.patch.object(Tensor, "float", Tensor.double):
        yield model


def language_model(config: dict[str, Any]) -> torch.nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(**config)).eval()


def peer() -> tuple[dict[str, Tensor], compare.Arrays, dict[str, Any]]:
    """What `transformers` computes: weights, numbers and facts of the golden file."""
    model = language_model(CASE).double()
    weights = cases.fill({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}, SEED)
    model.load_state_dict(weights)
    tokens, half = cases.tokens(0), cases.HALF
    with lifted(model):
        logits = model(tokens, use_cache=False).logits
        (logits * cases.probe(tuple(logits.shape), 7)).sum().backward()
        cache = model(tokens[:, :half], use_cache=True).cache_params
    arrays = {"whole": logits}
    for block in range(CASE["num_hidden_layers"]):  # the oldest input of its window is never used again
        arrays[f"state/{block}.conv"] = cache.get_conv_state(block, state_idx=0)[..., 1 - CASE["conv_kernel"] :]
        arrays[f"state/{block}.ssm"] = cache.get_recurrent_state(block, state_idx=0)
    numbers = {name: tensor.detach().numpy() for name, tensor in arrays.items()}
    with tempfile.TemporaryDirectory() as folder:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        numbers["gradients"] = compare.gradient_numbers(compare.as_ours(gradients, Path(folder)))
    facts = {"case": CASE, "seed": SEED, "shapes": {name: list(tensor.shape) for name, tensor in weights.items()}}
    return weights, numbers, facts


def unpatched(weights: dict[str, Tensor], path: Path) -> list[Row]:
    """Its class as it is, in float32: the weights of the golden file, and a folder that `save_pretrained` wrote."""
    model = language_model(CASE)
    model.load_state_dict(weights)
    tokens = cases.tokens(0)
    small = {**CASE, "tie_word_embeddings": True, "use_conv_bias": False, "use_bias": False, "expand": 2}
    saved = language_model(small)
    saved.save_pretrained(path / "saved")
    write(path / "given", weights, CASE)
    ours, given = compare.quietly(path / "saved"), compare.quietly(path / "given", dtype=torch.float32)
    assert ours.config.tie_embeddings
    long = cases.tokens(1, 200)
    with torch.no_grad():
        rows = [("logits, its class unpatched", _relative(given(tokens)[0], model(tokens).logits.numpy()))]
        rows += [("the same, step by step", _relative(given(tokens)[0], _steps(model, tokens).numpy()))]
        rows += [("save_pretrained, tied, 200 steps", _relative(ours(long)[0], saved(long).logits.numpy()))]
    return [Row("MambaForCausalLM", *row, 1e-5) for row in rows]


def _steps(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    cache, steps = None, []
    for token in tokens.unbind(1):
        out = model(token[:, None], cache_params=cache, use_cache=True)
        cache = out.cache_params
        steps.append(out.logits)
    return torch.cat(steps, 1)


def main() -> int:
    weights, numbers, facts = peer()
    cases.write("mamba", numbers, facts)
    with tempfile.TemporaryDirectory() as folder:
        rows = agree(weights, numbers, facts, Path(folder) / "a") + unpatched(weights, Path(folder) / "b")
    print(*rows, sep="\n")
    return sum(row.worst > row.bound for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
