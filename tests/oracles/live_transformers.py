"""Compare with `transformers`, live, and write the golden file: `python -m tests.oracles.live_transformers`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from exgate.models import io, xlstm_7b
from tests.oracles import cases, compare, states
from tests.oracles import peer_transformers as peer
from tests.oracles.compare import Row

SEED = 1


def loaded(folder: Path) -> list[Row]:
    """Its weights in our model, and states and gradients to and fro."""
    case, label = cases.TRANSFORMERS, "transformers"
    model = peer.lift(peer.language_model(case))
    weights = cases.fill({name: tuple(t.shape) for name, t in model.state_dict().items()}, SEED)
    model.load_state_dict(weights)
    tokens, half = cases.tokens(0), cases.HALF
    _, cache = peer.steps(model, tokens[:, :half])
    arrays = {"whole": peer.logits(model, tokens)[0], "step": peer.steps(model, tokens)[0]}
    arrays |= {f"state/{name}": tensor for name, tensor in peer.flat(cache).items()}
    for kind, eps in (("gradients", 1e-6), ("gradients, eps=0", 0.0)):
        exact = peer.lift(peer.language_model(case, eps=eps))
        exact.load_state_dict(weights)
        (peer.training_logits(exact, tokens) * cases.probe((*tokens.shape, cases.VOCABULARY), 7)).sum().backward()
        gradients = {name: parameter.grad for name, parameter in exact.named_parameters()}
        arrays[kind] = torch.from_numpy(compare.gradient_numbers(compare.as_ours(gradients, folder / "gradients")))
    for name, dtype in (("unpatched", torch.float64), ("whole32", torch.float32)):
        plain = peer.language_model(case, dtype=dtype, float32_norms=True)
        plain.load_state_dict(weights)
        arrays[name] = plain(tokens).logits
    numbers = {name: tensor.detach().numpy() for name, tensor in arrays.items()}
    facts = {"case": case, "seed": SEED, "shapes": {name: list(tensor.shape) for name, tensor in weights.items()}}
    cases.write("transformers", numbers, facts)
    rows = compare.transformers(weights, numbers, facts, folder / "formats")
    ours = compare.quietly(folder / "formats" / "q")
    after = {name: tensor.detach() for name, tensor in states.to_7b(ours(tokens[:, :half])[1]).items()}
    continued, _ = peer.steps(model, tokens[:, half:], peer.cache_of(model, after))
    worst = float((continued - arrays["step"][:, half:]).abs().max())
    return [*rows, Row(label, "logits, it from our state", worst, 1e-10)]


def written(folder: Path) -> list[Row]:
    """Our folder in format="transformers", opened by `AutoModelForCausalLM`: logits, greedy text, and back again."""
    from transformers import AutoModelForCausalLM

    rows = []
    shared = {"vocab_size": cases.VOCABULARY, "blocks": 2, "soft_cap": 9.0, "gate_soft_cap": 5.0, "norm_eps": 1e-5}
    kinds = {
        "plain": xlstm_7b.Config(**shared, dim=96, heads=4, qk_dim=64, v_dim=128, ffn_dim=200),
        "tied, biases": xlstm_7b.Config(
            **shared, dim=128, heads=2, qk_dim=128, v_dim=64, ffn_dim=320, tie_embeddings=True, bias=True
        ),
        "odd FFN": xlstm_7b.Config(**shared, dim=110, heads=4, qk_dim=64, v_dim=64, ffn_dim=333),
    }
    for name, config in kinds.items():
        label = f"written for transformers, {name}"
        model = io.build(config, dtype=torch.float64)
        model.load_state_dict(cases.fill({n: tuple(t.shape) for n, t in model.state_dict().items()}, SEED))
        path = folder / name.replace(" ", "_")
        io.save(model, path, format="transformers")
        theirs, report = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64, output_loading_info=True)
        problems = {key: value for key, value in report.items() if value}
        if problems:
            raise AssertionError(f"{label}: transformers reports {problems}")
        tokens = cases.tokens(0)
        ours, _ = model(tokens)
        rows.append(Row(label, "logits, its class unpatched", _worst(theirs.eval()(tokens).logits, ours), 1e-4))
        for module in theirs.modules():
            if hasattr(module, "force_float32_reductions"):
                module.force_float32_reductions = False
        lifted, _ = peer.logits(peer.lift(theirs), tokens)
        rows.append(Row(label, "logits", _worst(lifted, ours), 1e-10))
        text = theirs.generate(tokens[:1], max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=None)
        greedy = tokens[:1]
        for _ in range(8):
            greedy = torch.cat([greedy, model(greedy)[0][:, -1:].argmax(-1)], 1)
        rows.append(Row(label, "greedy tokens that differ", float((text != greedy).sum()), 0.0))
        again = io.load(path)
        rows.append(Row(label, "logits, loaded back", _worst(again(tokens)[0], ours), 0.0))
    return rows


def _worst(theirs: torch.Tensor, ours: torch.Tensor) -> float:
    return float((theirs.detach().double() - ours.detach()).abs().max())


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = loaded(Path(folder)) + written(Path(folder))
    print(*rows, sep="\n")
    return sum(row.worst > row.bound for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
