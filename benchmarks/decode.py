"""How long does a token take, one after the other, and how near is that to the memory's limit?

    python -m benchmarks.decode [--quick] [--seconds N]

Ours through `exgate.generate.sampling.generate`, greedy, timed between its tokens: the model's step and everything
around it. The peers' step is the bare forward with their cache, the logits of one token and argmax, without the rest of
their `generate`. Every round goes on where the last one stopped; the first tokens of a round are left out.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from benchmarks import greedy, timing
from benchmarks import language_models as models
from benchmarks.limits import limits
from exgate.generate.sampling import generate
from exgate.ops.state import flatten

# model, B, tokens of prompt
CASES = [("small", 1, 256), ("small", 1, 4096), ("small", 4, 256), ("small", 8, 256), ("large", 1, 256)]
FIRST, ROUNDS = 4, 3


def decode(options) -> dict:
    bounds, result = None, {"models": {}, "cases": {}}
    wanted = CASES[:1] if options.quick else CASES
    for size in dict.fromkeys(case[0] for case in wanted):
        contenders, state = _contenders(size)
        result["models"][size] = _facts(contenders, state)
        for batch, prompt in (case[1:] for case in wanted if case[0] == size):
            bounds = limits(bounds)
            found = _compare(contenders, batch, prompt, options.seconds)
            result["cases"][f"{size}, B={batch}, prompt {prompt}"] = found
            print(".", end="", flush=True)
    return {"limits": bounds, **result}


def _contenders(size: str) -> tuple[dict[str, Any], int]:
    """The models, and the bytes of our state for one row."""
    config = models.SIZES[size]
    model = models.ours(config)
    found = {"ours": model}
    found |= {f"ours {kind}": smaller for kind in ("bf16", "int8") if (smaller := models.compact(model, kind))}
    found["transformers xLSTM"] = models.their_xlstm(model)
    found["transformers Llama"] = models.their_llama(config)
    models.disagreement(model, found["transformers xLSTM"])
    with torch.inference_mode():
        _, state = model(torch.zeros(1, 1, dtype=torch.long))
    return found, sum(part.nbytes for part in flatten(state).values())


def _facts(contenders: dict[str, Any], state: int) -> dict:
    """What a token reads: every weight but the embedding's table, of which it takes a row."""
    weights = {}
    for name, model in contenders.items():
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        weights[name] = sum(t.nbytes for key, t in tensors.items() if "embed" not in key)
    return {"parameters": models.parameters(contenders["ours"]), "weight_bytes": weights, "state_bytes": state}


def _compare(contenders: dict[str, Any], batch: int, prompt: int, seconds: float) -> dict:
    torch.manual_seed(0)
    tokens = torch.randint(contenders["ours"].config.vocab_size, (batch, prompt))
    writers = {
        name: _ours(model, tokens) if name.startswith("ours") else _theirs(model, tokens)
        for name, model in contenders.items()
    }
    counts, spans = {}, {}
    for name, write in writers.items():
        usual = sorted(write(FIRST + 4))[2]
        counts[name] = FIRST + max(6, min(60, int(1e3 * seconds / len(writers) / ROUNDS / usual)))
        spans[name] = []
    for _ in range(ROUNDS):
        for name, write in writers.items():
            spans[name] += write(counts[name])[FIRST:]
    return {name: {**timing.spread(found), "rounds": len(found)} for name, found in spans.items()}


def _ours(model: Any, prompt: torch.Tensor) -> Callable[[int], list[float]]:
    session = generate(model, prompt, max_tokens=0).session

    def write(count: int) -> list[float]:
        nonlocal session
        times = []
        session = generate(
            model,
            session=session,
            max_tokens=count + 1,
            temperature=0.0,
            on_token=lambda row, _: times.append(time.perf_counter()) if row == 0 else None,
        ).session
        return _between(times)

    return write


def _theirs(model: Any, prompt: torch.Tensor) -> Callable[[int], list[float]]:
    step = greedy.stepper(model, prompt)

    def write(count: int) -> list[float]:
        times = [time.perf_counter()]
        for _ in range(count):
            step()
            times.append(time.perf_counter())
        return _between(times)

    return write


def _between(times: list[float]) -> list[float]:
    return [1e3 * (after - before) for before, after in pairwise(times)]


if __name__ == "__main__":
    timing.main(__doc__, {"decode": decode})
