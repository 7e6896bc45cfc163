"""The models that the suites compare, by name, at equal numbers of parameters: their widths are solved for."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from exgate import hint
from exgate.layers.init import small_
from exgate.models import io

# Two models are of one size if they differ by no more than this share.
TOLERANCE = 0.03
# What is wanted beside it, where it can be had: that without embedding and head they differ by no more than this.
BETWEEN = 0.06
# The model whose size, at a suite's width, is the size of all.
REFERENCE = "xlstm[0:1]-no-conv"
WIDEST = 4096
LEAST, MOST = 50, 180  # percent of the usual inner widths

# "frozen" are the parameters that stay as they are, which is 0 for these; an "ffn_dim" is so many times the width.
_XLSTM = {"model": "xlstm", "heads": 1, "multiple": 16}
_LSTM = {"model": "lstm", "residual": False}
_FIELDS: dict[str, dict[str, Any]] = {
    "rnn": _LSTM | {"cell": "rnn"},
    "lstm": _LSTM,
    "lstm-forget-0": _LSTM | {"forget_bias": 0.0},
    "lstm-forget-3-6": _LSTM | {"forget_bias": (3.0, 6.0)},
    "lstm-peephole": _LSTM | {"peepholes": True},
    "lstm-residual": {"model": "lstm"},
    "lstm-block": {"model": "lstm", "ffn_dim": 8 / 3},
    "xlstm[0:1]": _XLSTM | {"pattern": "s"},
    "xlstm[0:1]-no-conv": _XLSTM | {"pattern": "s", "slstm_conv_kernel": 0},
    "xlstm[0:1]-uniform": _XLSTM | {"pattern": "s", "slstm_conv_kernel": 0, "recurrent_init": "uniform"},
    "xlstm[1:1]": _XLSTM | {"pattern": "ms"},
    "xlstm[1:0]": _XLSTM | {"pattern": "m"},
    "xlstm[1:0]-no-conv": _XLSTM | {"pattern": "m", "conv_kernel": 0},
    "xlstm[1:0]-bias-gates": _XLSTM | {"pattern": "m", "frozen": ("igate.weight", "fgate.weight")},
    "llama": {"model": "llama", "heads": 2, "ffn_dim": 8 / 3},
    "mamba": {"model": "mamba"},
    "rwkv4": {"model": "rwkv4", "ffn_dim": 4.0},
}
MODELS = tuple(_FIELDS)


class Probe(nn.Module):
    """A language model's stack between an embedding of tokens or numbers and a head of classes or one number.

    Args:
        model: a `LanguageModel`; its embedding serves for tokens, its head is not used.
        vocabulary, features, outputs: of the task.
    """

    def __init__(self, model: Any, *, vocabulary: int, features: int, outputs: int) -> None:
        super().__init__()
        dim, width, device = model.embed.embedding_dim, model.head.in_features, model.embed.weight.device
        self.embed = model.embed if vocabulary else nn.Linear(features, dim, device=device)
        self.stack, self.norm = model.stack, model.norm
        self.head = nn.Linear(width, outputs, device=device)
        small_(self.head.weight, width)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor, *, reset: Tensor | None = None) -> Tensor:
        """inputs (B, T) whole numbers or (B, T, F), reset (B, T) -> (B, T, D): what `head` reads."""
        x, _ = self.stack(self.embed(inputs), reset=reset)
        return self.norm(x)

    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def check(names: Iterable[str], blocks: int | None = None) -> None:
    """Refuses names that are not in `MODELS`, and models of more kinds of blocks than there are blocks.

    Raises:
        ValueError: there is no such model, or not of so few blocks.
    """
    for name in names:
        if name not in MODELS:
            raise ValueError(f"evaluate: {hint.unknown(name, MODELS, what='model')}")
        kinds = len(_FIELDS[name].get("pattern", ""))
        if blocks is not None and kinds > blocks:
            raise ValueError(
                f"evaluate: '{name}' has {kinds} kinds of blocks, but the models of this problem have {blocks} in all. "
                "Leave it out."
            )


def build(
    name: str, task: Any, *, dim: int, blocks: int, dropout: float = 0.0, cells: Mapping[str, Any] | None = None
) -> Probe:
    """The model `name` for a task, as large as `REFERENCE` is at width `dim`, with fresh weights.

    Args:
        task: what has `vocabulary`, `features` and `outputs`.
        dim, blocks: width of the reference, and blocks (layers) of both.
        cells: fields of the config of xLSTM models in place of the usual.
    Raises:
        ValueError: there is no such model, not of so few blocks, or no width of it is within `TOLERANCE`.
    """
    fields = size(name, task, dim=dim, blocks=blocks, cells=cells)
    more = {"dropout": dropout} if dropout else {}
    return _probe(fields | more, task.vocabulary, task.features, task.outputs, "cpu")


def size(name: str, task: Any, *, dim: int, blocks: int, cells: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields of the config of `build`, without dropout."""
    check([name], blocks)
    own = _FIELDS[name] | (dict(cells or {}) if _FIELDS[name]["model"] == "xlstm" else {})
    return dict(_size(name, tuple(own.items()), (task.vocabulary, task.features, task.outputs), dim, blocks))


@lru_cache
def _size(
    name: str, items: tuple[tuple[str, Any], ...], ends: tuple[int, int, int], dim: int, blocks: int
) -> dict[str, Any]:
    own = dict(items)
    goals = _counts(_fields(_FIELDS[REFERENCE], dim, blocks), ends)
    step = 4 if own["model"] == "llama" else 1  # each head has pairs of numbers to rotate
    widths = range(8, WIDEST, step)
    place = bisect_left(widths, goals[0], key=lambda width: _counts(_fields(own, width, blocks), ends)[0])

    def off(fields: dict[str, Any]) -> tuple[float, float, float]:
        """How far from the goals, in all and then between the ends, where near enough is equal; then in all."""
        total, between = (abs(found / goal - 1) for found, goal in zip(_counts(fields, ends), goals, strict=True))
        return max(total, TOLERANCE), max(between, BETWEEN) if total <= TOLERANCE else math.inf, total

    nearest = (_fields(own, width, blocks) for width in widths[max(0, place - 2) : place + 2])
    fields = min(nearest, key=lambda fields: off(fields)[2])
    # Small models jump in size, and with a large vocabulary the ends decide on the width: of wide ones a few are tried.
    for reach in (8, max(20, dim // 3)):
        if off(fields)[:2] > (TOLERANCE, BETWEEN):
            near = widths[max(0, place - reach) : place + reach : max(1, reach // 20)]
            fields = min((fields, *(_scaled(own, width, blocks, goals[0], ends) for width in near)), key=off)
    total = _counts(fields, ends)[0]
    if abs(total / goals[0] - 1) > TOLERANCE:
        raise ValueError(
            f"evaluate: '{name}' has {total:,} parameters at width {fields['dim']}, but {goals[0]:,} are wanted, "
            f"within {TOLERANCE:.0%}. Take another width for the suite (it is {dim})."
        )
    return fields


def _fields(own: dict[str, Any], dim: int, blocks: int) -> dict[str, Any]:
    fields = own | {"dim": dim, "layers" if own["model"] == "lstm" else "blocks": blocks}
    return fields | ({"ffn_dim": round(own["ffn_dim"] * dim)} if "ffn_dim" in own else {})


def _scaled(own: dict[str, Any], dim: int, blocks: int, goal: int, ends: tuple[int, int, int]) -> dict[str, Any]:
    """The config of one width nearest to the goal with inner widths of 50 to 180 percent.

    Small models are few and far between. Sizes are nearly linear in the inner widths, so that two tell where to look.
    """
    fields = _fields(own, dim, blocks)
    inner: dict[str, Any] = {"hidden": dim} if not fields.get("residual", True) else {}
    inner |= {"proj_factor": 2.0, "ffn_factor": 1.3} if fields["model"] == "xlstm" else {}
    inner |= {"ffn_dim": fields["ffn_dim"]} if "ffn_dim" in fields else {}
    inner |= {"inner_dim": 2 * dim} if fields["model"] == "mamba" else {}

    def at(percent: int) -> dict[str, Any]:
        scaled = {key: value * percent / 100 for key, value in inner.items()}
        return fields | {key: value if type(inner[key]) is float else round(value) for key, value in scaled.items()}

    low, high = (_counts(at(percent), ends)[0] for percent in (LEAST, MOST))
    guess = LEAST if high == low else round(LEAST + (goal - low) / (high - low) * (MOST - LEAST))
    tries = range(max(LEAST, guess - 5), min(MOST, guess + 5) + 1) or (LEAST, MOST)
    return min((at(percent) for percent in tries), key=lambda fields: abs(_counts(fields, ends)[0] - goal))


def _counts(fields: dict[str, Any], ends: tuple[int, int, int]) -> tuple[int, int]:
    """Parameters that are learnt: all, and those between embedding and head."""
    probe = _probe(fields, *ends, "meta")
    return probe.num_parameters(), sum(p.numel() for p in probe.stack.parameters() if p.requires_grad)


def _probe(fields: dict[str, Any], vocabulary: int, features: int, outputs: int, device: str) -> Probe:
    frozen = tuple(fields.get("frozen", ()))
    known = {key: value for key, value in fields.items() if key != "frozen"}
    config = io.config_from_dict(known | {"vocab_size": max(1, vocabulary)})
    model = io.build(config, device=torch.device(device))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen and name.endswith(frozen)))
    return Probe(model, vocabulary=vocabulary, features=features, outputs=outputs)
