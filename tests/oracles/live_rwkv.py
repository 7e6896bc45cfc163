"""Compare with RWKV-4 of `transformers`, live, and write the golden file: `python -m tests.oracles.live_rwkv`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from exgate.models import rwkv4
from tests.oracles import cases, compare
from tests.oracles.compare_rwkv import CASE, LABEL, _row, rwkv, to_theirs

SEED = 1


def peer() -> torch.nn.Module:
    """In training mode: at inference it halves hidden states and weights every few blocks."""
    from transformers import RwkvConfig, RwkvForCausalLM

    return RwkvForCausalLM(RwkvConfig(**CASE)).train()


def rows(folder: Path) -> list[compare.Row]:
    model, tokens, half = peer(), cases.tokens(0), cases.HALF
    weights = cases.fill({name: tuple(t.shape) for name, t in model.state_dict().items()}, SEED)
    model.load_state_dict(weights)
    logits = model(tokens).logits
    (logits * cases.probe(tuple(logits.shape), 7)).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    with torch.no_grad():
        state = model(tokens[:, :half], use_cache=True).state
    arrays = {
        "whole": logits.detach().numpy(),
        "state": torch.stack(state).numpy(),
        "gradients": compare.gradient_numbers(compare.as_ours(gradients, folder / "gradients")).astype(np.float32),
    }
    facts = {"case": CASE, "seed": SEED, "shapes": {name: list(tensor.shape) for name, tensor in weights.items()}}
    cases.write("rwkv", arrays, facts)
    found = rwkv(weights, arrays, facts, folder / "rwkv")
    ours = compare.quietly(folder / "rwkv")
    with torch.no_grad():
        after = list(to_theirs(ours(tokens[:, :half])[1]).unbind(0))
        # Of several rows it takes no single step from a state, so all that is left at once.
        continued = model(tokens[:, half:], state=after, use_cache=True).logits
        found.append(_row("logits, it from our state / largest", continued, arrays["whole"][:, half:]))
        # Halved hidden states meet the same eps in its norms, which then counts four times as much: so without it.
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
            norm.eps = 0.0
        exact, _ = compare.quietly(folder / "rwkv", norm_eps=0.0)(tokens)
        found.append(_row("logits, its layers halved / largest", exact, model.eval()(tokens).logits))
    return [*found, *fresh()]


def fresh() -> list[compare.Row]:
    """Its own initial weights, where ours are to be the same numbers."""
    theirs, found = dict(peer().named_parameters()), []
    config = rwkv4.Config(vocab_size=cases.VOCABULARY, dim=16, blocks=2, ffn_dim=24)
    ours = dict(rwkv4.build(config).named_parameters())
    for block in range(2):
        layer = f"stack.layers.{block + 1}.layers.0.layer."
        for name, other in (("decay", "time_decay"), ("mix_k", "time_mix_key"), ("mix_v", "time_mix_value")):
            there = theirs[f"rwkv.blocks.{block}.attention.{other}"].detach().flatten()
            found.append(
                compare.Row(LABEL, f"initial {name}", float((ours[layer + name].detach() - there).abs().max()), 1e-6)
            )
    return found


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = rows(Path(folder))
    print(*found, sep="\n")
    return sum(row.worst > row.bound for row in found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
