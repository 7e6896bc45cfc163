"""Models on disk: a folder with `model.safetensors` and `config.json`, and the folders and files of other packages.

The file system is the registry: the name of a model is the name of the file in `exgate/models/` that has its
`Config` and its `build`, and the entry "model" of `config.json`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import exgate.models
from exgate import files, hint
from exgate.layers.linear import CompactLinear
from exgate.models import foreign
from exgate.models.foreign_7b import to_transformers
from exgate.models.lm import LanguageModel
from exgate.models.weights import Plan, Reading, Weights, same

BEST = "best"  # the folder of a run's best model


def names() -> list[str]:
    """The models that can be built: the files of this folder that have a `Config` and a `build`."""
    files = [file.name for file in pkgutil.iter_modules(exgate.models.__path__)]
    return [file for file in files if _is_architecture(importlib.import_module(f"exgate.models.{file}"))]


def language_models() -> list[str]:
    """Those of `names` that read and write one vocabulary: what recipes can train."""
    return [model for model in names() if "vocab_size" in get_type_hints(_architecture(model).Config)]


def name(config: Any) -> str:
    """The name of the model that a config describes: its file in `exgate/models/`."""
    return type(config).__module__.rpartition(".")[2]


def build(config: Any, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LanguageModel:
    """The model of a config, initialised as published (on the device "meta": shapes only).

    Raises:
        ValueError: it is no config of a model.
    """
    if isinstance(config, type) or not dataclasses.is_dataclass(config):
        raise ValueError(
            f"build: {config!r} is no model's config; it should be one, as exgate.models.xlstm.Config(vocab_size=257, "
            f"dim=64, blocks=2). There are: {', '.join(names())}."
        )
    return _architecture(name(config)).build(config, device=device, dtype=dtype)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The fields of a config, after "model": its name. What `config.json` holds."""
    return {"model": name(config), **dataclasses.asdict(config)}


def config_from_dict(fields: Mapping[str, Any]) -> Any:
    """The way back from `config_to_dict`; fields that are left out keep their defaults.

    Raises:
        ValueError: no or an unknown "model", an unknown field (with the nearest right one), a missing field, or
            a value of another type.
    """
    fields = dict(fields)
    if "model" not in fields:
        raise ValueError(f'config: the entry "model" is missing. It is one of: {", ".join(names())}.')
    cls = _architecture(fields.pop("model")).Config
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key in fields:
        if key not in known:
            raise ValueError(f"config of {_name_of(cls)}: {hint.unknown(key, known)}")
    for key, value in fields.items():
        fields[key] = _checked(cls, key, value)
    missing = [
        key
        for key, field in known.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and key not in fields
    ]
    if missing:
        raise ValueError(f"config of {_name_of(cls)}: no value for {', '.join(missing)}. Add it.")
    return cls(**fields)


def save(model: nn.Module, path: str | os.PathLike[str], *, format: str = "exgate") -> None:
    """Write a model into a folder, which is made if it is not there; a kill while it is written leaves the old one.

    Args:
        model: a `LanguageModel`. Its parameters are written in the type that they have.
        path: the folder.
        format: "exgate" (`model.safetensors` and `config.json`), or "transformers": what
            `transformers.AutoModelForCausalLM.from_pretrained` loads, for models of 7B's kind.
    Raises:
        ValueError: unknown format, `path` is a file, `model` has no config or is compact, or transformers cannot
            express the model (says what).
    """
    if format not in ("exgate", "transformers"):
        raise ValueError(f"save: {hint.unknown(format, ('exgate', 'transformers'), what='format')}")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save: {folder} is a file, but a model is a folder. Give the name of a folder.")
    if not hasattr(model, "config"):
        raise ValueError(f"save: {type(model).__name__} has no config; it should be a model that `exgate.build` made.")
    if any(isinstance(module, CompactLinear) for module in model.modules()):
        raise ValueError(
            "save: the weights of this model are stored in few bits, for which there is no format. Save the model that "
            "`compact` was given, and compact it again after loading."
        )
    tensors = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    config, special_tokens = config_to_dict(model.config), getattr(model, "special_tokens", {})
    if format == "transformers":
        config, tensors = to_transformers(config["model"], model.config, tensors, special_tokens)
    elif special_tokens:
        config["special_tokens"] = special_tokens
    tensors = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    with files.filled(folder) as new:
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (new / "config.json").write_text(text, encoding="utf-8")


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> LanguageModel:
    """Open a saved model, without being told which package wrote it.

    Args:
        path: our folder, or a run's, which means its best model; a folder or a file (.safetensors, .pt, .pth, .bin,
            .ckpt) of the `xlstm` package (xLSTMLMModel or xLSTMLarge) or of `transformers` (xLSTM, Llama, Mamba or Rwkv
            ForCausalLM); or a name on the Hugging Face hub, "organisation/name".
        device, dtype: of the parameters; None keeps the type of the file.
        overrides: fields of the model's config, in place of what the files say or what is assumed (`soft_cap=0.0`), and
            `special_tokens`.
    Returns:
        The `LanguageModel`, in training mode as built; `model.config` is its config. What tensors and configs leave
        open is assumed as published and printed on stderr in one line. Where special tokens are known,
        `model.special_tokens` has them: {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1} for the published 7B.
    Raises:
        ValueError: nothing there, not a model, damaged file, or tensors that do not fit: each with its name.
    Cost: the tensors are read one by one into the parameters; there is no second copy of the model.
    """
    weights, config = _open(local(path))
    if isinstance(config.get("model"), str):
        reading = Reading(config.pop("model"), config, {}, {key: ((key,), same) for key in weights.shapes})
    else:
        reading = foreign.read(weights, config)
    assumed = {key: value for key, value in reading.assumed.items() if key not in overrides}
    fields = {"model": reading.model, **reading.fields, **assumed, **overrides}
    special_tokens = fields.pop("special_tokens", None)
    try:
        config = config_from_dict(fields)
    except ValueError as error:
        raise ValueError(f"load: {weights.name}: {error}") from None
    model = _filled(config, weights, reading.plan, torch.device(device), dtype)
    if special_tokens:
        vars(model)["special_tokens"] = dict(special_tokens)
    notes = list(reading.notes)
    if assumed:
        listed = ", ".join(f"{key}={value!r}" for key, value in assumed.items())
        notes.append(f"assumed as published: {listed} (exgate.load(path, {next(iter(assumed))}=...) overrides)")
    if notes:
        print(f"exgate: {weights.name}: {'; '.join(notes)}", file=sys.stderr)
    return model


def _is_architecture(module: ModuleType) -> bool:
    return dataclasses.is_dataclass(getattr(module, "Config", None)) and callable(getattr(module, "build", None))


def _architecture(model: Any) -> ModuleType:
    known = names()
    if model not in known:
        raise ValueError(hint.unknown(str(model), known, what="model"))
    return importlib.import_module(f"exgate.models.{model}")


def _name_of(cls: type) -> str:
    return cls.__module__.rpartition(".")[2]


def _checked(cls: type, key: str, value: Any) -> Any:
    """A value from JSON or TOML, if its type is that of the field: whole numbers pass for floats, nothing else."""
    hint = get_type_hints(cls)[key]
    kinds = (hint,) if get_origin(hint) is tuple else get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if isinstance(value, list | tuple) and any(get_origin(kind) is tuple for kind in kinds):
        return _checked_numbers(cls, key, value, next(kind for kind in kinds if get_origin(kind) is tuple))
    if type(value) not in kinds:
        wanted = " or ".join("a list of numbers" if get_origin(kind) is tuple else kind.__name__ for kind in kinds)
        raise ValueError(f"config of {_name_of(cls)}: {key} is {value!r}, but should be of type {wanted}.")
    return value


def _checked_numbers(cls: type, key: str, value: Any, kind: Any) -> tuple[Any, ...]:
    """A list from JSON or TOML as the tuple of numbers that the field is: two of them, or any count."""
    of, *others = get_args(kind)
    fits = {float: (int, float), int: (int,)}[of]
    if all(type(part) in fits for part in value) and (others == [...] or len(value) == 1 + len(others)):
        return tuple(of(part) for part in value)
    numbers = "numbers" if of is float else "whole numbers"
    wanted = f"a list of {numbers}" if others == [...] else "one number or two"
    raise ValueError(f"config of {_name_of(cls)}: {key} is {value!r}, but should be {wanted}.")


def local(path: str | os.PathLike[str]) -> Path:
    """The path itself, or the folder to which a name on the Hugging Face hub was downloaded."""
    local = Path(path).expanduser()
    if (local / BEST / "config.json").exists() and not (local / "config.json").exists():
        return local / BEST
    if local.exists():
        return local
    parts = str(path).split("/")
    if len(parts) != 2 or not all(parts) or str(path).startswith((".", "~")):
        raise ValueError(
            f"load: there is no file or folder {path}. Give a saved model, or a hub name 'organisation/name'."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"exgate: there is no folder {path}, and downloading it from the Hugging Face hub needs the package "
            "'huggingface_hub'. Install the extra: pip install 'exgate[hub]'"
        ) from None
    wanted = ["*.json", "*.yaml", "*.safetensors", "*.bin", "*.pt", "*.pth"]
    try:
        return Path(snapshot_download(str(path), allow_patterns=wanted))
    except Exception as error:  # the hub's own errors are many; what the caller can do is the same for all
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"load: there is no folder {path}, and the Hugging Face hub did not give it ({first}). "
            "Check the name and the network, or download it elsewhere and give the folder."
        ) from error


def _open(path: Path) -> tuple[Weights, dict[str, Any]]:
    """The tensors under a path, unread, and the config that lies beside them."""
    weights = Weights(path)
    folder = path if path.is_dir() else path.parent
    file = folder / "config.json"
    if file.exists():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"load: {file} is not JSON ({error}). It is damaged: restore it.") from None
    elif (file := folder / "config.yaml").exists():
        try:
            import yaml
        except ImportError:
            raise ImportError(f"exgate: reading {file} needs the package 'pyyaml': pip install pyyaml") from None
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    else:
        return weights, {}
    if not isinstance(config, dict):
        raise ValueError(f"load: {file} holds {type(config).__name__}, but should hold names and values. Restore it.")
    return weights, config


def _filled(
    config: Any,
    weights: Weights,
    plan: Plan,
    device: torch.device,
    dtype: torch.dtype | None,
) -> LanguageModel:
    """The model with its tensors: built without memory, then given them one by one."""
    model = build(config, device="meta")
    state = model.state_dict()
    where = f"load: {weights.name}"
    if missing := sorted(state.keys() - plan.keys()):
        raise ValueError(f"{where}: the model '{name(config)}' needs {_some(missing)}, not there.")
    if extra := sorted(plan.keys() - state.keys()):
        raise ValueError(f"{where}: the model '{name(config)}' of this config has no place for {_some(extra)}.")
    # Before anything is read: a file of another width is refused at once.
    for key, (sources, _) in plan.items():
        if sources == (key,) and weights.shapes[key] != tuple(state[key].shape):
            raise ValueError(f"{where}: {_misfit(key, weights.shapes[key], tuple(state[key].shape))}")
    for key, (sources, join) in plan.items():
        tensor = join(*(weights.read(source) for source in sources))
        if tensor.shape != state[key].shape:
            raise ValueError(f"{where}: {_misfit(key, tuple(tensor.shape), tuple(state[key].shape))}")
        _assign(model, key, tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True).contiguous())
    return model


def _assign(model: nn.Module, key: str, tensor: Tensor) -> None:
    owner, _, leaf = key.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))
    else:
        setattr(module, leaf, tensor)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _misfit(key: str, has: tuple[int, ...], wants: tuple[int, ...]) -> str:
    return f"{key} has shape {has}, but the model of this config has {wants}. Use the config that was saved with it."
