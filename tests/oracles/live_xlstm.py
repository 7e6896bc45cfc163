"""Compare with the package `xlstm`, live, and write the golden files: `python -m tests.oracles.live_xlstm`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.oracles import cases, compare, states
from tests.oracles import peer_xlstm as peer
from tests.oracles.compare import Row

SEED = 1
LONG = 301


def xlstm(name: str, case: dict[str, Any], folder: Path) -> list[Row]:
    model = peer.language_model(case)
    weights = peer.weights_of(model, SEED)
    peer.filled(model, weights)
    tokens, half, pattern = cases.tokens(0), cases.HALF, case["pattern"]
    whole = model(tokens)
    _, state = peer.steps(model, tokens[:, :half])
    prompt = peer.flat_state(state, pattern)
    arrays = {"whole": whole, "step": peer.steps(model, tokens)[0]}
    arrays |= {f"state/{key}": value for key, value in prompt.items()}
    arrays |= gradients("gradients", model, model(tokens), folder)
    peer.without_eps(model)
    arrays |= gradients("gradients, eps=0", model, model(tokens), folder)
    single = peer.filled(peer.language_model(case), weights).float()
    arrays["whole32"] = single(tokens)
    facts = {"name": name, "case": case, "seed": SEED, "shapes": shapes(weights)}
    rows = finish(f"xlstm_{name}", arrays, facts, weights, folder, compare.xlstm)
    if not peer.cuda_layout_is_theirs(weights):
        raise AssertionError("cases.to_cuda_layout is not what the package's CUDA class has")
    # Back: the package continues from a state of ours.
    ours = compare.quietly(folder / "formats" / "vanilla")
    after = states.to_xlstm(ours(tokens[:, :half])[1], pattern)
    continued, _ = peer.steps(model, tokens[:, half:], peer.nested_state(detached(after), pattern))
    rows.append(row(f"xLSTMLMModel {name}", "logits, it from our state", continued, arrays["step"][:, half:]))
    # Longer than a chunk of ours, of a length that no chunk divides.
    many = cases.tokens(1, LONG)
    longer = peer.filled(peer.language_model(case, context=LONG), weights)
    with torch.no_grad():
        theirs, mine = longer(many), ours(many, states.empty_whole(ours, cases.BATCH))[0]
    rows.append(row(f"xLSTMLMModel {name}", f"logits, {LONG} steps", mine, theirs))
    return rows


def large(name: str, case: dict[str, Any], folder: Path) -> list[Row]:
    train = peer.large(case, mode="train")
    weights = peer.weights_of(train, SEED)
    peer.filled(train, weights)
    inference = peer.filled(peer.large(case, mode="inference"), weights)
    tokens, half = cases.tokens(0), cases.HALF
    _, state = peer.large_steps(inference, tokens[:, :half])
    arrays = {"whole": train(tokens)[0], "step": peer.large_steps(inference, tokens)[0]}
    arrays |= {f"state/{key}": value for key, value in peer.large_flat(state).items()}
    arrays |= gradients("gradients", train, arrays["whole"], folder)
    exact = peer.filled(peer.large(case, mode="train", eps=0.0), weights)
    arrays |= gradients("gradients, eps=0", exact, exact(tokens)[0], folder)
    single = peer.filled(peer.large(case, mode="train", dtype="float32"), weights)
    arrays["whole32"] = single(tokens)[0]
    facts = {"name": name, "case": case, "seed": SEED, "shapes": shapes(weights)}
    rows = finish(f"large_{name}", arrays, facts, weights, folder, compare.large)
    label = f"xLSTMLarge {name}"
    with torch.no_grad():  # a prompt in one piece, of a length that its chunks do not divide
        prompt, _ = inference(tokens[:, : cases.TIME - 1])
    rows.append(row(label, "logits, its inference mode", prompt, arrays["whole"][:, : cases.TIME - 1]))
    ours = compare.quietly(folder / "formats")
    many = cases.tokens(1, LONG)
    with torch.no_grad():
        rows.append(row(label, f"logits, {LONG} steps", ours(many)[0], inference(many)[0]))
    after = states.to_7b(ours(tokens[:, :half])[1])
    continued, _ = peer.large_steps(inference, tokens[:, half:], peer.large_nested(detached(after)))
    rows.append(row(label, "logits, it from our state", continued, arrays["step"][:, half:]))
    return rows


def sigmoid_gate() -> list[Row]:
    arrays = {}
    for normalize in (True, False):
        for key, value in peer.sigmoid_gate(normalize).items():
            arrays[f"normalize={normalize}/{key}"] = value
    numbers = {key: value.numpy() for key, value in arrays.items()}
    cases.write("sigmoid_gate", numbers, {})
    return compare.sigmoid_gate(numbers)


def gradients(kind: str, model: torch.nn.Module, logits: torch.Tensor, folder: Path) -> dict[str, Any]:
    ours = compare.as_ours(peer.gradients(model, logits), folder / "differentiated")
    return {kind: torch.from_numpy(compare.gradient_numbers(ours))}


def shapes(weights: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in weights.items()}


def detached(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def finish(
    file: str, arrays: dict[str, Any], facts: dict[str, Any], weights: Any, folder: Path, check: Any
) -> list[Row]:
    """Write the golden file, and compare."""
    numbers = {key: value.detach().numpy() for key, value in arrays.items()}
    cases.write(file, numbers, facts)
    return check(weights, numbers, facts, folder / "formats")


def row(label: str, what: str, theirs: torch.Tensor, others: torch.Tensor) -> Row:
    return Row(label, what, float((theirs - others).detach().abs().max()), 1e-10)


def main() -> int:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.XLSTM.items():
            rows += xlstm(name, case, Path(folder) / name)
        for name, case in cases.LARGE.items():
            rows += large(name, case, Path(folder) / name)
    rows += sigmoid_gate()
    print(*rows, sep="\n")
    return sum(row.worst > row.bound for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
