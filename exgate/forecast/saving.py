"""A forecaster as a folder: the network, and what it knows of its series. safetensors and JSON, nothing pickled."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from exgate import files
from exgate.forecast.fit import Budget, History
from exgate.forecast.forecaster import Forecaster
from exgate.forecast.frame import Columns, Panel
from exgate.forecast.known import Known
from exgate.forecast.online import Reader, Reading
from exgate.forecast.windows import Units
from exgate.models import io
from exgate.models.patch_xlstm import PatchState
from exgate.ops.state import flatten, unflatten

SERIES = ("values", "hist", "futr")


def save(forecaster: Forecaster, path: str | os.PathLike[str]) -> Path:
    """Write a fitted forecaster into a folder: its model (`exgate.save`), `forecaster.json`, `series.safetensors`.

    Raises:
        ValueError: it was not fitted.
    """
    panel, network, folder = forecaster._fitted(), forecaster.network, Path(path)
    io.save(network.module, folder)
    tensors = {
        f"{name}.{place}": torch.tensor(array) for name in SERIES for place, array in enumerate(getattr(panel, name))
    }
    states = {}
    for row, reader in enumerate(forecaster._readers):
        for place, now in reader.states.items():
            states[f"{row}.{place}"] = {
                "begun": now.begun, "read": now.read, "units": [values.ravel().tolist() for values in now.units],
            }  # fmt: skip
            tensors |= {f"state.{row}.{place}/{name}": tensor.cpu() for name, tensor in flatten(now.state).items()}
    if network.offsets is not None:
        tensors["offsets"] = torch.tensor(network.offsets)
    with files.replaced(folder / "series.safetensors") as file:
        save_file(tensors, file)
    known = {field.name: getattr(forecaster._known, field.name) for field in dataclasses.fields(Known)}
    text = {
        "h": forecaster.h, "alias": forecaster.alias, "polars": forecaster._polars,
        "network": {"name": network.name, "quantiles": network.quantiles, "intervals": network.intervals,
                    "options": network.options, "steps": network.steps},
        "columns": dataclasses.asdict(forecaster.columns),
        "budget": dataclasses.asdict(forecaster.budget),
        "history": None if forecaster.history is None else dataclasses.asdict(forecaster.history),
        "known": known | {"columns": None},
        "ids": [name if isinstance(name, int | str) else str(name) for name in panel.ids],
        "freq": panel.freq if isinstance(panel.freq, int) else panel.freq.freqstr,
        "ends": [_stamp(times[-1]) for times in panel.times],
        "states": states,
        "static": None if forecaster._static is None else json.loads(str(forecaster._static.to_json(orient="split"))),
    }  # fmt: skip
    files.write(folder / "forecaster.json", json.dumps(text, indent=1, ensure_ascii=False) + "\n")
    return folder


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Forecaster:
    """Open a saved forecaster: it forecasts and updates as the one that was saved.

    Raises:
        ValueError: a file of the folder is missing or damaged; it is named.
    """
    folder = Path(path).expanduser()
    try:
        text = json.loads((folder / "forecaster.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "series.safetensors")
        made = _made(text, device)
        made._panel, made._static = _panel(text, tensors), _static(text["static"])
        network = made.network
        network.module = io.load(folder, device=made.device).eval()
        network.steps = text["network"]["steps"]
        network.offsets = tensors["offsets"].numpy() if "offsets" in tensors else None
        made._readers = _readers(made, text["states"], tensors)
    except FileNotFoundError as error:
        raise ValueError(f"forecast: {error.filename} is missing. Is {folder} the folder of a forecaster?") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"forecast: {folder} is damaged, or of another version of exgate: {error!r}.") from error
    except SafetensorError as error:
        raise ValueError(f"forecast: {folder / 'series.safetensors'} is damaged: {error}.") from error
    return made


def _made(text: dict[str, Any], device: torch.device | str) -> Forecaster:
    """The forecaster of a file, but for its network's weights and its series."""
    network, columns = text["network"], Columns(**_tuples(text["columns"]))
    made = Forecaster(
        network["name"], h=text["h"], quantiles=network["quantiles"], intervals=network["intervals"], device=device,
        alias=text["alias"], hist_exog_list=columns.hist, futr_exog_list=columns.futr, stat_exog_list=columns.stat,
        id_col=columns.unique_id, time_col=columns.ds, target_col=columns.y, **_tuples(network["options"]),
    )  # fmt: skip
    made.budget, made._known = Budget(**text["budget"]), Known(**text["known"] | {"columns": columns})
    made._polars = text["polars"]
    if text["history"] is not None:
        looks = [(step, loss) for step, loss in text["history"]["validation"]]
        made.history = History(**text["history"] | {"validation": looks})
    return made


def _panel(text: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Panel:
    import pandas

    count, freq, times = len(text["ids"]), text["freq"], []
    parts: dict[str, Any] = {name: [tensors[f"{name}.{place}"].numpy() for place in range(count)] for name in SERIES}
    for end, values in zip(text["ends"], parts["values"], strict=True):
        if isinstance(freq, int):
            times.append(pandas.Index(np.arange(end - freq * (len(values) - 1), end + 1, freq)))
        else:
            last = pandas.Timestamp(end["at"])
            last = last if end["zone"] is None else last.tz_convert(end["zone"])
            times.append(pandas.date_range(end=last, periods=len(values), freq=freq))
    freq = freq if isinstance(freq, int) else pandas.tseries.frequencies.to_offset(freq)
    return Panel(ids=text["ids"], freq=freq, times=times, **parts)


def _stamp(last: Any) -> Any:
    """A time as JSON: a whole number, or its text and its zone."""
    if hasattr(last, "isoformat"):
        return {"at": last.isoformat(), "zone": None if last.tzinfo is None else str(last.tzinfo)}
    return int(last)


def _static(text: Any) -> Any:
    import pandas

    return None if text is None else pandas.DataFrame(text["data"], columns=text["columns"])


def _readers(made: Forecaster, states: dict[str, Any], tensors: dict[str, torch.Tensor]) -> list[Reader]:
    panel = made._fitted()
    readers = [Reader() for _ in panel.ids]
    if not states:
        return readers
    template, parts = _template(made), {key: {} for key in states}
    for name, tensor in tensors.items():
        key, slash, rest = name.removeprefix("state.").partition("/")
        if slash:
            parts[key][rest] = tensor.to(made.device)
    for key, fields in states.items():
        row, place = map(int, key.split("."))
        like = template if len(parts[key]) > len(flatten(template.scale)) else PatchState(template.scale, None)
        units = Units(*(np.array(values).reshape(1, 1, -1) for values in fields["units"]))
        readers[row].states[place] = Reading(unflatten(parts[key], like), fields["begun"], fields["read"], units)
    return readers


@torch.inference_mode()
def _template(made: Forecaster) -> PatchState:
    """A state of the network: what those of a file are nested like."""
    network = made.network
    series = made._known.series(made._fitted(), made._static, device=made.device)
    rows = series.rows(np.array([[0, len(series.values[0])]]), network.patch, network.patch)
    return network.module(rows.read, None, rows.known)[1]


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
