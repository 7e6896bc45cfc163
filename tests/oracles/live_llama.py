"""Compare with the Llama of `transformers`, live, and write the golden file: `python -m tests.oracles.live_llama`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.oracles import cases, compare
from tests.oracles import peer_llama as peer
from tests.oracles.compare import Row

SEED = 2


def loaded(name: str, folder: Path) -> list[Row]:
    """Its weights in our model: logits and gradients, and the folder that it saves itself."""
    case, tokens = cases.LLAMA[name], cases.tokens(0)
    model = peer.lift(peer.language_model(case))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if case.get("tie_word_embeddings"):
        del shapes["lm_head.weight"]
    weights = cases.fill(shapes, SEED)
    model.load_state_dict(weights, strict=False)
    logits = model(tokens).logits
    (logits * cases.probe(tuple(logits.shape), 7)).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    plain = peer.language_model(case, torch.float32)
    plain.load_state_dict(weights, strict=False)
    arrays = {
        "whole": logits.detach().numpy(),
        "whole32": plain(tokens).logits.detach().numpy(),
        "gradients": compare.gradient_numbers(compare.as_ours(gradients, folder / "gradients", case)),
    }
    facts = {"case": case, "seed": SEED, "shapes": {key: list(shape) for key, shape in shapes.items()}, "name": name}
    if name == "shared":
        cases.write("llama", arrays, facts)
    plain.save_pretrained(folder / "saved")
    with torch.no_grad():
        saved, theirs = compare.quietly(folder / "saved")(tokens)[0], plain(tokens).logits
    worst = float((saved - theirs).abs().max() / theirs.abs().max())
    rows = compare.llama(weights, arrays, facts, folder / "written")
    return [*rows, Row(f"LlamaForCausalLM {name}", "logits in float32, save_pretrained", worst, 1e-5)]


def main() -> int:
    rows = []
    for name in cases.LLAMA:
        with tempfile.TemporaryDirectory() as folder:
            rows += loaded(name, Path(folder))
    print(*rows, sep="\n")
    return sum(row.worst > row.bound for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
