"""The protocol of the long-horizon tables: standardised series, all test windows, squared and absolute error.

What the published tables differ in is how weights are chosen: here by the validation part alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exgate.forecast import fit
from exgate.forecast.fit import Budget
from exgate.forecast.network import Network
from exgate.forecast.windows import PLAIN, Series, evenly
from exgate.layers.series import filled
from exgate.models.patch_xlstm import PatchXLSTM

HORIZONS = (96, 192, 336, 720)
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
BATCH = 64  # windows that are scored at a time
SCORED = 2048  # windows of the validation part that are scored, evenly spaced


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A line of the table.

    Args:
        steps: L, of the windows that are read.
        options: fields of its config; choices: sets of further ones, of fields of `Budget`, and of steps to `read`, of
            which validation takes one.
        mixed: a window has all series; else each series is a window of its own.
        once: one model forecasts every horizon, those up to the longest; else there is one for each.
        budget: of its training.
    """

    model: str
    steps: int = 336
    options: dict[str, Any] = field(default_factory=dict)
    choices: tuple[dict[str, Any], ...] = ({},)
    mixed: bool = False
    once: bool = False
    budget: dict[str, Any] = field(default_factory=dict)


_TIME = {"model": "xlstm_time", "steps": 512, "mixed": True}
CONTENDERS = {
    "patch_xlstm": Contender(
        model="patch_xlstm", once=True, options={"dropout": 0.2},
        choices=({"patch": 48, "rate": 5e-4}, {"patch": 96, "read": 384, "rate": 1e-3}),
        budget={"steps": 1000, "batch": 64, "check": 100, "rows": 1024, "weight_decay": 0.05, "average": 0.99},
    ),
    "xlstm_time": Contender(
        **_TIME, choices=({"rate": 1e-3}, {"rate": 3e-4}), budget={"steps": 200, "batch": 64, "check": 25}
    ),
    "xlstm_time over time": Contender(
        **_TIME, options={"axis": "time", "dim": 64, "blocks": 1}, choices=({"rate": 1e-3}, {"rate": 3e-3}),
        budget={"steps": 150, "batch": 64, "check": 25},
    ),
    "dlinear": Contender(
        model="dlinear", options={"normalize": False}, choices=({"rate": 5e-3}, {"rate": 1e-3}),
        budget={"steps": 1000, "batch": 64, "check": 100},
    ),
    "lstm": Contender(
        model="lstm_direct", steps=192, mixed=True, options={"hidden": 64, "layers": 1},
        choices=({"rate": 3e-3}, {"rate": 1e-3}),
        budget={"steps": 300, "batch": 64, "check": 50},
    ),
    "ridge": Contender(model="ridge"),
    "last value": Contender(model="naive"),
    "last season": Contender(model="naive"),
}  # fmt: skip


def configure(name: str, choice: dict[str, Any], *, horizons: Sequence[int], season: int, seed: int) -> dict[str, Any]:
    """All that decides the numbers of a run, as JSON holds it: a contender, which of its choices, and what is forecast.

    Args:
        horizons: of a contender that is trained `once` any, of others one.
        season: of the contender "last season".
    """
    contender = CONTENDERS[name]
    budget = Budget(**contender.budget, seed=seed)
    fields = set(Budget.__dataclass_fields__) - {"units"}
    options = contender.options | {key: value for key, value in choice.items() if key not in fields | {"read"}}
    if name == "last season":
        options["season"] = season
    budget = replace(budget, **{key: value for key, value in choice.items() if key in fields})
    return {
        "model": contender.model, "steps": choice.get("read", contender.steps), "mixed": contender.mixed,
        "options": options, "budget": {key: getattr(budget, key) for key in sorted(fields)}, "horizons": list(horizons),
    }  # fmt: skip


def run(configuration: dict[str, Any], record: Any) -> dict[str, Any]:
    """Train one model once, and score it.

    Args:
        configuration: of `configure`.
        record: `exgate.data.series.Record`: values, parts and windows.
    Returns:
        parameters, seconds, best (the step whose weights were kept), validation (mse and mae over horizons), and test:
        mse and mae of each horizon.
    """
    start, steps, horizons = time.monotonic(), configuration["steps"], configuration["horizons"]
    budget = Budget(**configuration["budget"], units=PLAIN)
    begin, end = record.parts["validation"]
    known = record.values[:end]  # nothing of the test part is here
    torch.manual_seed(budget.seed)
    model = build(configuration, known.shape[1])
    rows = [known] if configuration["mixed"] else [known[:, [place]] for place in range(known.shape[1])]
    history = fit.train(
        model, Series(values=rows), steps=steps, horizon=max(horizons), validation=end - begin, budget=budget
    )
    trained = time.monotonic() - start
    validation = score(model, record, "validation", configuration, most=SCORED)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()), "best": history.best,
        "seconds": round(trained, 2), "losses": history.validation,
        "validation": {name: float(np.mean([each[name] for each in validation])) for name in ("mse", "mae")},
        "test": score(model, record, "test", configuration),
        "scoring_seconds": round(time.monotonic() - start - trained, 2),
    }  # fmt: skip


def build(configuration: dict[str, Any], channels: int) -> nn.Module:
    """The model of a configuration with its initial weights."""
    network = Network(configuration["model"], quantiles=QUANTILES, intervals=None, options=configuration["options"])
    sizes = {"channels": channels} if configuration["mixed"] else {}
    return network.build(configuration["steps"], max(configuration["horizons"]), sizes)


@torch.inference_mode()
def score(
    model: nn.Module, record: Any, part: str, configuration: dict[str, Any], *, most: int | None = None
) -> list[dict[str, float]]:
    """Squared and absolute error of each horizon over the windows of a part: all, or so many at most."""
    model.eval()
    horizons = sorted(configuration["horizons"])
    # The windows of the shortest horizon begin with those of the longer ones.
    windows = {horizon: record.windows(part, configuration["steps"], horizon) for horizon in horizons}
    which = evenly(np.arange(len(windows[horizons[0]][0])), most or len(windows[horizons[0]][0]))
    sums = {horizon: np.zeros(3) for horizon in horizons}
    for begin in range(0, len(which), BATCH):
        places = which[begin : begin + BATCH]
        read = torch.as_tensor(windows[horizons[0]][0][places], dtype=torch.float32)
        answer = forecast(model, read, horizons[-1], mixed=configuration["mixed"]).double().numpy()
        for horizon in horizons:
            whole = places[places < len(windows[horizon][0])]
            error = windows[horizon][1][whole] - answer[: len(whole), :horizon]
            error = error[~np.isnan(error)]
            sums[horizon] += np.square(error).sum(), np.abs(error).sum(), error.size
    return [
        {"horizon": horizon, "mse": squared / count, "mae": absolute / count}
        for horizon, (squared, absolute, count) in sums.items()
    ]


def forecast(model: nn.Module, read: Tensor, horizon: int, *, mixed: bool) -> Tensor:
    """Windows (B, L, C) -> forecasts (B, H, C): medians, where a model has quantiles."""
    rows, channels = len(read), read.shape[2]
    if not mixed:
        read = read.mT.flatten(0, 1)[..., None]
    if isinstance(model, PatchXLSTM):
        levels = model.config.quantiles
        answer = model.forecast(read, horizon)[0][..., levels.index(0.5)]
    else:
        answer = model(filled(read))
    return answer if mixed else answer[..., 0].unflatten(0, (rows, channels)).mT
