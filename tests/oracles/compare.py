"""Our side of the comparisons: open a checkpoint as its package would have written it, and compare the outputs.

The live oracles (run.sh) and the tests (tests/models/test_foreign.py, from golden files) run the same functions.
"""

from __future__ import annotations

import contextlib
import json
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from exgate.models import foreign, io
from exgate.models.weights import Weights
from exgate.ops.state import State
from tests.oracles import cases, states

Arrays = dict[str, np.ndarray]


class Row(NamedTuple):
    """One line of the table: in `format`, `what` differs by at most `worst`, and `bound` is allowed."""

    format: str
    what: str
    worst: float
    bound: float

    def __str__(self) -> str:
        verdict = "ok" if self.worst <= self.bound else "TOO LARGE"
        return f"{self.format:<38} {self.what:<34} {self.worst:8.1e}  <= {self.bound:5.0e}  {verdict}"


def as_ours(tensors: dict[str, Tensor], folder: Path, config: dict[str, Any] | None = None) -> dict[str, Tensor]:
    """Tensors by the peer's names (its gradients, say) by our names and in our layout."""
    folder.mkdir(exist_ok=True, parents=True)
    torch.save(tensors, folder / "tensors.pt")
    weights = Weights(folder / "tensors.pt")
    plan = foreign.read(weights, config or {}).plan
    return {name: join(*(weights.read(source) for source in sources)) for name, (sources, join) in plan.items()}


def gradient_numbers(gradients: dict[str, Tensor]) -> np.ndarray:
    """A row of numbers for each gradient, by the order of our names."""
    return np.stack([cases.projections(gradients[name]) for name in sorted(gradients)])


def quietly(path: Path, **options: Any) -> Any:
    """`load` without what it prints about assumptions."""
    with contextlib.redirect_stderr(StringIO()):
        return io.load(path, **options)


def xlstm(weights: dict[str, Tensor], arrays: Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """`xLSTMLMModel`, its state dict as the vanilla backend saves it and as the CUDA backend would."""
    case, label = facts["case"], f"xLSTMLMModel {facts['name']}"
    names = {"vanilla": weights}
    if "s" in case["pattern"]:
        names["cuda"] = cases.to_cuda_layout(weights)
    rows = []
    for layout, tensors in names.items():
        path = folder / layout
        path.mkdir(parents=True)
        if case.get("tied"):
            tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
        save_file({f"module.{name}": tensor.contiguous() for name, tensor in tensors.items()}, path / "a.safetensors")
        if "act_fn" in case:
            config = {"slstm_block": {"feedforward": {"act_fn": case["act_fn"]}}}
            (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = quietly(path)
        start = states.empty_whole(model, cases.BATCH)
        there = states.from_xlstm(_tensors(arrays, "state/"), case["pattern"], case["heads"])
        rows += _outputs(f"{label}, {layout}", model, arrays, start=start, there=there)
        _, half = model(cases.tokens(0)[:, : cases.HALF])
        rows.append(_states(f"{label}, {layout}", states.to_xlstm(half, case["pattern"]), arrays))
        single = quietly(path, dtype=torch.float32)
        rows.append(_single(f"{label}, {layout}", single, arrays, start=states.empty_whole(single, cases.BATCH)))
        for kind, options in (("gradients", {}), ("gradients, eps=0", {"cell_eps": 0.0})):
            model = quietly(path, **options)
            rows += _gradients(f"{label}, {layout}", model, arrays, kind, states.empty_whole(model, cases.BATCH))
    return rows


def large(weights: dict[str, Tensor], arrays: Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """`xLSTMLarge`, one file and a config.yaml, as the package itself keeps it."""
    case, label = facts["case"], f"xLSTMLarge {facts['name']}"
    folder.mkdir(parents=True)
    torch.save({"state_dict": weights, "step": 3}, folder / "model.pt")
    lines = [f"{key}: {value}" for key, value in {**case, "eps": 1e-06}.items()]
    (folder / "config.yaml").write_text("\n".join(lines).replace("1e-06", "1.0e-06"), encoding="utf-8")
    return _architecture_7b(label, folder, arrays, case["num_blocks"])


def transformers(weights: dict[str, Tensor], arrays: Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """`xLSTMForCausalLM`: sharded safetensors, with today's names and with the older ones."""
    case, rows = facts["case"], []
    for style in ("q, k, v", "query, key, value"):
        path = folder / style.partition(",")[0]
        write_transformers(path, weights, case, older=style.startswith("query"))
        rows += _architecture_7b(f"transformers ({style})", path, arrays, case["num_hidden_layers"])
    model = quietly(path)
    logits = model(cases.tokens(0))[0]
    rows.append(_row("transformers", "logits, its class unpatched", logits, arrays["unpatched"], 1e-4))
    return rows


def write_transformers(path: Path, weights: dict[str, Tensor], config: dict[str, Any], *, older: bool = False) -> None:
    """A folder as `save_pretrained` writes it with small shards, or as its older classes did."""
    path.mkdir(parents=True)
    if older:
        for new, old in (("q", "query"), ("k", "key"), ("v", "value")):
            weights = {name.replace(f"mlstm_layer.{new}.", f"mlstm_layer.{old}."): t for name, t in weights.items()}
        heads = config["num_heads"]
        weights = {n: t.view(heads, -1) if "multihead_norm" in n else t for n, t in weights.items()}
    shards: dict[str, dict[str, Tensor]] = {}
    for place, name in enumerate(sorted(weights)):
        shards.setdefault(f"model-0000{1 + place % 3}-of-00003.safetensors", {})[name] = weights[name].contiguous()
    for file, tensors in shards.items():
        save_file(tensors, path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, tensors in shards.items() for name in tensors}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    text = json.dumps({"model_type": "xlstm", "eps": 1e-6, "norm_eps": 1e-6, **config})
    (path / "config.json").write_text(text, encoding="utf-8")


def llama(weights: dict[str, Tensor], arrays: Arrays, facts: dict[str, Any], folder: Path) -> list[Row]:
    """`LlamaForCausalLM`, as `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(facts["case"]), encoding="utf-8")
    label, model, tokens = f"LlamaForCausalLM {facts['name']}", quietly(folder), cases.tokens(0)
    with torch.no_grad():
        state, steps = None, []
        for token in tokens.unbind(1):
            logits, state = model(token[:, None], state)
            steps.append(logits)
    return [
        _row(label, "logits, whole sequence", model(tokens)[0], arrays["whole"], 1e-10),
        _row(label, "logits, step by step", torch.cat(steps, 1), arrays["whole"], 1e-10),
        _single(label, quietly(folder, dtype=torch.float32), arrays),
        *(row._replace(bound=1e-10) for row in _gradients(label, model, arrays, "gradients", None)),
    ]


def sigmoid_gate(arrays: Arrays) -> list[Row]:
    """mLSTM with a sigmoid input gate, the op alone, against mlstm_kernels' parallel form."""
    from exgate import ops

    rows = []
    for normalize in (True, False):
        inputs = {name: value.requires_grad_() for name, value in cases.sigmoid_inputs().items()}
        turned = [value.transpose(1, 2) for value in inputs.values()]
        h, _ = ops.mlstm(*turned, input_gate="sigmoid", normalize=normalize, eps=1e-6)
        h = h.transpose(1, 2)
        (h * cases.probe(tuple(h.shape), 7)).sum().backward()
        key = f"normalize={normalize}"
        rows.append(_row("mlstm_kernels, sigmoid gate", f"h, {key}", h, arrays[f"{key}/h"], 1e-10))
        worst = max(_relative(inputs[name].grad, arrays[f"{key}/d{name}"]) for name in inputs)
        rows.append(Row("mlstm_kernels, sigmoid gate", f"gradients, {key}", worst, 1e-10))
    return rows


def _architecture_7b(label: str, path: Path, arrays: Arrays, blocks: int) -> list[Row]:
    model = quietly(path)
    there = states.from_7b(_tensors(arrays, "state/"), blocks)
    rows = _outputs(label, model, arrays, start=None, there=there)
    _, half = model(cases.tokens(0)[:, : cases.HALF])
    rows.append(_states(label, states.to_7b(half), arrays))
    rows.append(_single(label, quietly(path, dtype=torch.float32), arrays))
    for kind, options in (("gradients", {}), ("gradients, eps=0", {"cell_eps": 0.0})):
        rows += _gradients(label, quietly(path, **options), arrays, kind, None)
    return rows


def _outputs(label: str, model: Any, arrays: Arrays, *, start: State, there: State) -> list[Row]:
    tokens, half = cases.tokens(0), cases.HALF
    with torch.no_grad():
        whole, _ = model(tokens, start)
        state, steps = None, []
        for token in tokens.unbind(1):
            logits, state = model(token[:, None], state)
            steps.append(logits)
        continued, _ = model(tokens[:, half:], there)
    return [
        _row(label, "logits, whole sequence", whole, arrays["whole"], 1e-10),
        _row(label, "logits, step by step", torch.cat(steps, 1), arrays["step"], 1e-10),
        _row(label, "logits, from its state", continued, arrays["step"][:, half:], 1e-10),
    ]


def _states(label: str, ours: dict[str, Tensor], arrays: Arrays) -> Row:
    theirs = _tensors(arrays, "state/")
    if ours.keys() != theirs.keys():
        raise AssertionError(f"{label}: states {sorted(ours)} and {sorted(theirs)}")
    # The oldest input in the convolution's window of the package is never used again; ours does not keep it.
    cut = {name: tensor[:, 1:] if name.endswith("conv") else tensor for name, tensor in theirs.items()}
    mine = {name: tensor[:, 1:] if name.endswith("conv") else tensor for name, tensor in ours.items()}
    worst = max(_relative(mine[name], cut[name]) for name in cut)
    return Row(label, "state after a prompt, to its form", worst, 1e-10)


def _single(label: str, model: Any, arrays: Arrays, start: State = None) -> Row:
    with torch.no_grad():
        logits, _ = model(cases.tokens(0), start)
    assert logits.dtype == torch.float32
    return Row(label, "logits in float32 / largest", _relative(logits, arrays["whole32"]), 1e-5)


def _gradients(label: str, model: Any, arrays: Arrays, kind: str, start: State) -> list[Row]:
    logits, _ = model(cases.tokens(0), start)
    (logits * cases.probe(tuple(logits.shape), 7)).sum().backward()
    ours = gradient_numbers({name: parameter.grad for name, parameter in model.named_parameters()})
    # In units of each gradient's length, which is the last of its numbers.
    worst = float((np.abs(ours - arrays[kind]).max(1) / arrays[kind][:, -1]).max())
    # With eps > 0 the peers differentiate the gauge m too: 1e-6 of the cell's output.
    return [Row(label, kind, worst, 1e-10 if "eps=0" in kind else 1e-5)]


def _tensors(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(a) for key, a in arrays.items() if key.startswith(prefix)}


def _row(label: str, what: str, ours: Tensor, theirs: np.ndarray, bound: float) -> Row:
    return Row(label, what, float((ours.detach().double() - torch.from_numpy(theirs).double()).abs().max()), bound)


def _relative(ours: Tensor | None, theirs: np.ndarray | Tensor) -> float:
    theirs = torch.as_tensor(theirs).double()
    assert ours is not None
    return float((ours.detach().double() - theirs).abs().max() / theirs.abs().max())
