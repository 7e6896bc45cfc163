"""How many tokens per second in training (forward, loss, backward) and in reading a prompt?

    python -m benchmarks.train_lm [--quick] [--seconds N]

Ours in float32 and in bfloat16, `transformers` xLSTM with the same weights, and `transformers` Llama of the same size.
"""

import copy
from functools import partial

import torch

from benchmarks import language_models as models
from benchmarks import timing

TRAIN = [(1, 1024), (2, 256)]
PREFILL = [(1, 256), (1, 1024), (1, 4096)]


def lm(options) -> dict:
    model = models.ours(models.SMALL)
    contenders = {
        "ours": model,
        "ours bf16": copy.deepcopy(model).to(torch.bfloat16),
        "transformers xLSTM": models.their_xlstm(model),
        "transformers Llama": models.their_llama(models.SMALL),
    }
    worst = models.disagreement(model, contenders["transformers xLSTM"])
    shapes = [("training", shape) for shape in TRAIN] + [("prefill", shape) for shape in PREFILL]
    cases = {}
    for what, (batch, steps) in shapes[:1] + shapes[2:3] if options.quick else shapes:
        torch.manual_seed(0)
        tokens = torch.randint(models.SMALL.vocab_size, (batch, steps + 1))
        calls = {}
        for name, one in contenders.items():
            one.train(what == "training")
            calls[name] = partial(_train if what == "training" else _prefill, one, tokens, name.startswith("ours"))
        found = timing.side_by_side(calls, seconds=2 * options.seconds)
        cases[f"{what}, B={batch}, T={steps}"] = {"tokens": batch * steps, "spans": found}
        print(".", end="", flush=True)
    counts = {name: models.parameters(one) for name, one in contenders.items()}
    return {"disagreement": worst, "parameters": counts, "cases": cases}


def _train(model, tokens: torch.Tensor, mine: bool) -> None:
    model.zero_grad(set_to_none=True)
    if mine:
        loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    else:  # it shifts the labels itself, and needs no cache
        loss = model(tokens[:, :-1], labels=tokens[:, :-1], use_cache=False).loss
    loss.backward()


@torch.inference_mode()
def _prefill(model, tokens: torch.Tensor, mine: bool) -> None:
    """Read a prompt, keep the state (the cache), and give the logits of what comes next, of the last token alone."""
    tokens = tokens[:, :-1]
    if mine:
        x, _ = model.hidden(tokens)
        model.logits(x[:, -1:])
    elif hasattr(model, "backbone"):  # it has no such option, so its head runs apart
        out = model.backbone(tokens, use_cache=True)
        model.lm_head(out.last_hidden_state[:, -1:])
    else:
        model(tokens, use_cache=True, logits_to_keep=1)


if __name__ == "__main__":
    timing.main(__doc__, {"lm": lm})
