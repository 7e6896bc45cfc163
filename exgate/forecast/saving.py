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
    _savable(panel)
    tensors = {
        f"{name}.{place}": torch.tensor(array) for name in SERIES for place, array in enumerate(getattr(panel, name))
    }
    for place, times in enumerate(panel.times):
        tensors[f"times.{place}"] = torch.tensor(np.array(times.asi8 if hasattr(times, "asi8") else times))
    states = {}
    for row, reader in enumerate(forecaster._readers):
        for place, now in reader.states.items():
            states[f"{row}.{place}"] = {
                "begun": now.begun, "read": now.read, "units": [values.ravel().tolist() for values in now.units],
            }  # fmt: skip
            tensors |= {f"state.{row}.{place}/{name}": tensor.cpu() for name, tensor in flatten(now.state).items()}
    if network.offsets is not None:
        tensors["offsets"] = torch.tensor(network.offsets)
    known = {field.name: getattr(forecaster._known, field.name) for field in dataclasses.fields(Known)}
    text = {
        "h": forecaster.h, "multivariate": forecaster.multivariate, "alias": forecaster.alias,
        "polars": forecaster._polars,
        "network": {"name": network.name, "quantiles": network.quantiles, "intervals": network.intervals,
                    "options": network.options, "steps": network.steps, "centred": network.centred},
        "columns": dataclasses.asdict(forecaster.columns),
        "budget": dataclasses.asdict(forecaster.budget),
        "history": None if forecaster.history is None else dataclasses.asdict(forecaster.history),
        "known": known | {"columns": None},
        "ids": panel.ids,
        "freq": panel.freq if isinstance(panel.freq, int) else panel.freq.freqstr,
        "input_size": forecaster.input_size,
        "times": _kind(panel.times[0]),
        "states": states,
        "static": _columns(forecaster),
    }  # fmt: skip
    written = json.dumps(text, indent=1, ensure_ascii=False, default=lambda value: value.item()) + "\n"
    with files.filled(folder) as new:
        io.save(network.module, new)
        save_file(tensors, new / "series.safetensors")
        (new / "forecaster.json").write_text(written, encoding="utf-8")
    return folder


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Forecaster:
    """Open a saved forecaster: it forecasts and updates as the one that was saved.

    Raises:
        ValueError: a file of the folder is missing or damaged; it is named.
    """
    folder = Path(path).expanduser()
    try:
        for name in ("forecaster.json", "series.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"forecast: {folder / name} is missing. Is {folder} the folder of a forecaster?")
        text = json.loads((folder / "forecaster.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "series.safetensors")
        made = _made(text, device)
        made._panel, made._static = _panel(text, tensors), _static(text["static"], made._known)
        network = made.network
        network.module = io.load(folder, device=made.device).eval()
        network.steps = text["network"]["steps"]
        network.offsets = tensors["offsets"].numpy() if "offsets" in tensors else None
        made._readers = _readers(made, text["states"], tensors)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"forecast: {folder} is damaged, or of another version of exgate: {error!r}.") from error
    except SafetensorError as error:
        raise ValueError(f"forecast: {folder / 'series.safetensors'} is damaged: {error}.") from error
    return made


def _made(text: dict[str, Any], device: torch.device | str) -> Forecaster:
    """The forecaster of a file, but for its network's weights and its series."""
    network, columns = text["network"], Columns(**_tuples(text["columns"]))
    made = Forecaster(
        network["name"], h=text["h"], freq=text["freq"], input_size=text["input_size"],
        quantiles=network["quantiles"], intervals=network["intervals"], multivariate=text["multivariate"],
        device=device, alias=text["alias"], hist_exog_list=columns.hist, futr_exog_list=columns.futr,
        stat_exog_list=columns.stat,
        id_col=columns.unique_id, time_col=columns.ds, target_col=columns.y, **_tuples(network["options"]),
    )  # fmt: skip
    made.network.centred = network["centred"]
    made.budget, made._known = Budget(**text["budget"]), Known(**text["known"] | {"columns": columns})
    made._polars = text["polars"]
    if text["history"] is not None:
        looks = [(step, loss) for step, loss in text["history"]["validation"]]
        made.history = History(**text["history"] | {"validation": looks})
    return made


def _panel(text: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Panel:
    import pandas

    count, freq, kind = len(text["ids"]), text["freq"], text["times"]
    parts: dict[str, Any] = {name: [tensors[f"{name}.{place}"].numpy() for place in range(count)] for name in SERIES}
    times = []
    for place in range(count):
        index = pandas.Index(tensors[f"times.{place}"].numpy())
        if kind is not None:
            index = pandas.DatetimeIndex(index.to_numpy().astype(f"datetime64[{kind['unit']}]"))
            index = index if kind["zone"] is None else index.tz_localize("UTC").tz_convert(kind["zone"])
        times.append(index)
    freq = freq if isinstance(freq, int) else pandas.tseries.frequencies.to_offset(freq)
    return Panel(ids=text["ids"], freq=freq, times=times, **parts)


def _kind(times: Any) -> Any:
    """What times are: None for whole numbers, or their unit and zone."""
    zone = getattr(times, "tz", None)
    return {"unit": times.unit, "zone": None if zone is None else str(zone)} if hasattr(times, "asi8") else None


def _savable(panel: Panel) -> None:
    """Raises where text would not lead back to what there is."""
    import pandas

    odd = [name for name in panel.ids if not isinstance(name, int | str)]
    if odd:
        raise ValueError(
            f"forecast: the series' name {odd[0]!r} is a {type(odd[0]).__name__}, which a file cannot keep. "
            "Make them text before fitting: df['unique_id'].astype(str)."
        )
    if not isinstance(panel.freq, int):
        try:
            same = pandas.tseries.frequencies.to_offset(panel.freq.freqstr) == panel.freq
        except ValueError:
            same = False
        if not same:
            raise ValueError(
                f"forecast: the frequency {panel.freq!r} has no name that leads back to it; use one that has."
            )


def _columns(forecaster: Forecaster) -> Any:
    """The static columns that the network has: numbers as they are, categories as text."""
    static, columns = forecaster._static, forecaster.columns
    if static is None or not columns.stat:
        return None
    kept = {columns.unique_id: [_plain(name) for name in static[columns.unique_id]]}
    for name in columns.stat:
        texts = name in forecaster._known.categories
        known = static[name].notna()
        values = [str(value) if texts else float(value) for value in static[name].where(known, 0 if not texts else "")]
        kept[name] = [value if there else None for value, there in zip(values, known, strict=True)]
    return kept


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's; all else as it is, for JSON to refuse."""
    return value.item() if isinstance(value, np.generic) else value


def _static(kept: Any, known: Known) -> Any:
    import pandas

    if kept is None:
        return None
    types = dict.fromkeys(known.static_numbers, float)
    return pandas.DataFrame(kept).astype(types)


def _readers(made: Forecaster, states: dict[str, Any], tensors: dict[str, torch.Tensor]) -> list[Reader]:
    panel = made._fitted()
    readers = [Reader() for _ in (panel.ids[:1] if made.multivariate else panel.ids)]
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
    series = made._known.series(made._fitted(), made._static, device=made.device, together=made.multivariate)
    rows = series.rows(np.array([[0, len(series.values[0])]]), network.patch, network.patch)
    return network.module(rows.read, None, rows.known)[1]


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
