"""What does a new observation cost, what a longer horizon, and what fitting beside neuralforecast?

    .adapters/neuralforecast/bin/python -m benchmarks.forecast [--quick] [--seconds N]

The environment is that of `make test-all`; without neuralforecast in it, its lines are left out. Networks have their
initial weights where only the time matters.
"""

import logging
import time
import warnings
from typing import Any

import numpy as np
import torch

from benchmarks import timing
from exgate.forecast import Forecaster, online
from exgate.forecast.windows import Series
from exgate.models import patch_xlstm
from exgate.ops.state import flatten

HISTORIES = (1_000, 10_000, 100_000)
CONTEXT, ROWS = 2048, 32
FIT = {"h": 48, "input_size": 192, "max_steps": 30}
WIDTH, BLOCKS, BATCH = 128, 2, 32


def forecast(options) -> dict:
    histories = HISTORIES[:2] if options.quick else HISTORIES
    found: dict[str, Any] = {"online": {str(steps): _online(steps, options.seconds) for steps in histories}}
    found["horizon"] = _horizons(options.seconds)
    found["fit"] = _fits(2 if options.quick else FIT["max_steps"])
    return found


def _online(steps: int, seconds: float) -> dict:
    """A series that grows from so many values: `update` and `predict` of one more, the state alone, all of it again."""
    import pandas

    values = _wave(steps + 400)
    begin = pandas.Timestamp("2000-01-01")
    df = pandas.DataFrame(
        {"unique_id": "a", "ds": pandas.date_range(begin, periods=steps, freq="h"), "y": values[:steps]}
    )
    made = Forecaster(h=24, input_size=192, patch=24, max_steps=1).fit(df, val_size=0)
    module, series, now = made.network.module, Series(values=[values[:, None]]), steps
    reader = [online.Reader()]
    for place in range(24):  # a state for each place of the present in a patch
        online.forecast(module, reader, series, [now - 24 + place], 24, 192)

    def update() -> None:
        nonlocal now
        new = pandas.DataFrame({"ds": [begin + pandas.Timedelta(hours=now)], "y": [values[now]]})
        made.update(new).predict()
        now += 1

    for _ in range(24):
        update()
    present = steps

    def state() -> None:
        nonlocal present
        online.forecast(module, reader, series, [present], 24, 192)
        present += 1

    whole = torch.tensor(values[None, : steps // 24 * 24, None], dtype=torch.float32)

    @torch.inference_mode()
    def again() -> None:
        module.forecast(whole, 24)

    found = timing.side_by_side({"update": update, "state": state, "again": again}, seconds=seconds, rounds=48)
    panel = made._fitted()
    kept = sum(
        tensor.nbytes
        for each in made._readers
        for one in each.states.values()
        for tensor in flatten(one.state).values()
    )
    return {"milliseconds": found, "state_bytes": kept, "series_bytes": sum(part.nbytes for part in panel.values)}


def _horizons(seconds: float) -> dict:
    """Forecasts of 32 and 128 steps after 2,048, of 32 series at once, by patches of 32."""
    found = {}
    for pattern in "sm":
        config = patch_xlstm.Config(patch=32, dim=WIDTH, blocks=BLOCKS, pattern=pattern, memory=6, leads=1)
        model = patch_xlstm.build(config).eval()
        x = torch.randn(ROWS, CONTEXT, 1)

        def ahead(steps: int, model=model, x=x):
            @torch.inference_mode()
            def call() -> None:
                model.forecast(x, steps)

            return call

        found[pattern] = timing.side_by_side(
            {str(steps): ahead(steps) for steps in (32, 128)}, seconds=seconds, rounds=15
        )
    return found


def _fits(steps: int) -> dict:
    """Seconds of fitting and of forecasting: ours, and neuralforecast's where it is installed."""
    import pandas

    values = [_wave(2000, seed) for seed in range(7)]
    ds = pandas.date_range("2024-01-01", periods=2000, freq="h")
    df = pandas.concat(
        [pandas.DataFrame({"unique_id": f"s{place}", "ds": ds, "y": each}) for place, each in enumerate(values)],
        ignore_index=True,
    )
    ours = {"input_size": FIT["input_size"], "batch_size": BATCH, "max_steps": steps, "val_check_steps": steps}
    xlstm = {"pattern": "m", "dim": WIDTH, "blocks": BLOCKS}
    found = {}
    for name, options in {
        "LSTM": {"model": "lstm_direct", "hidden": WIDTH, "layers": BLOCKS},
        "xLSTM, mLSTM over steps": {**xlstm, "patch": 1, "memory": 0},
        "xLSTM, mLSTM over patches of 48": {**xlstm, "patch": 48},
    }.items():
        made = Forecaster(h=FIT["h"], freq="h", **ours, **options)
        begin = time.perf_counter()
        # Without a validation block there are no conformal intervals: the point forecast is what is timed.
        made.fit(df, val_size=0 if made.network.patched else None)
        fitted = time.perf_counter()
        made.predict()
        found[f"ours: {name}"] = {"fit": fitted - begin, "predict": time.perf_counter() - fitted, "steps": steps}
    try:
        import neuralforecast
        from neuralforecast import models
    except ImportError:
        return found
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {
        "enable_progress_bar": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    theirs = {
        "h": FIT["h"], "input_size": FIT["input_size"], "max_steps": steps, "batch_size": 7,
        "windows_batch_size": BATCH, "encoder_hidden_size": WIDTH, "accelerator": "cpu", **quiet,
    }  # fmt: skip
    contenders = {
        "LSTM": lambda: models.LSTM(encoder_n_layers=BLOCKS, **theirs),
        "xLSTM, mLSTM": lambda: models.xLSTM(encoder_n_blocks=BLOCKS, backbone="mLSTM", **theirs),
    }
    for name, build in contenders.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = neuralforecast.NeuralForecast(models=[build()], freq="h")
            begin = time.perf_counter()
            made.fit(df)
            fitted = time.perf_counter()
            made.predict()
        found[f"neuralforecast: {name}"] = {
            "fit": fitted - begin,
            "predict": time.perf_counter() - fitted,
            "steps": steps,
        }
    return found


def _wave(steps: int, seed: int = 0) -> np.ndarray:
    """Hours with a day and a week in them, and noise."""
    hours = np.arange(steps)
    noise = np.random.default_rng(seed).normal(size=steps)
    return 10 + 3 * np.sin(2 * np.pi * hours / 24 + seed) + np.sin(2 * np.pi * hours / 168) + 0.3 * noise


if __name__ == "__main__":
    timing.main(__doc__, {"forecast": forecast})
