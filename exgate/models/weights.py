"""The tensors of saved models, by name, unread until asked for: safetensors (sharded too) and PyTorch's own files."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What wrappers put before every name, and what training programs put around a state dict.
PREFIXES = ("module.", "model.")
CONTAINERS = ("state_dict", "model", "model_state_dict")
PICKLED = (".pt", ".pth", ".bin", ".ckpt")


# For each of our parameters: the tensors that it is made of, and how.
Plan = dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]]


@dataclass
class Reading:
    """What a checkpoint says.

    Args:
        model: the name of our architecture.
        fields: of its Config, from tensors and config files; and "special_tokens", ids by transformers' names.
        assumed: fields that neither tells, with the published values.
        plan: where each parameter comes from.
        notes: what the user should know besides.
    """

    model: str
    fields: dict[str, Any]
    assumed: dict[str, Any]
    plan: Plan
    notes: list[str] = field(default_factory=list)


SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")  # as transformers has them


def special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of special tokens that a config of transformers names: a number, several, or None for no such token."""
    return {key: config[key] for key in SPECIAL_TOKENS if key in config}


def same(tensor: Tensor) -> Tensor:
    """A tensor that needs no change, for a `Plan`."""
    return tensor


class Weights:
    """The tensors under a path: `shapes` at once, `read(name)` one by one.

    Args:
        path: a .safetensors, .pt, .pth, .bin or .ckpt file, or a folder with such files. Pickled files are read with
            `weights_only=True` and mapped into memory, not copied.
    Raises:
        ValueError: no such file, several candidates, damaged, or something else than tensors inside.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._readers: dict[str, Callable[[], Tensor]] = {}
        for file in _files(path):
            (self._add_pickled if file.suffix in PICKLED else self._add_safetensors)(file)
        self._strip()

    def read(self, name: str) -> Tensor:
        """One tensor; on the CPU, perhaps still a view of the file."""
        return self._readers[name]()

    def tied(self, embedding: str, head: str) -> bool:
        """Whether the head is the embedding: not there, or the same numbers."""
        if head not in self.shapes:
            return True
        if self.shapes[head] != self.shapes[embedding]:
            return False
        one, other = self.read(embedding), self.read(head)
        return torch.equal(one[:1], other[:1]) and torch.equal(one, other)

    def _add(self, file: Path, name: str, shape: Iterable[int], reader: Callable[[], Tensor]) -> None:
        if name in self.shapes:
            raise ValueError(f"load: {file}: {name} is in another file of the folder too. Give one file.")
        self.shapes[name] = tuple(shape)
        self._readers[name] = reader

    def _add_safetensors(self, file: Path) -> None:
        try:
            handle = safe_open(str(file), framework="pt")
            for name in sorted(handle.keys()):
                shape = handle.get_slice(name).get_shape()
                self._add(file, name, shape, lambda name=name: handle.get_tensor(name))
        except FileNotFoundError:
            raise ValueError(f"load: {file} is not there. Copy the folder again.") from None
        except SafetensorError as error:
            raise ValueError(
                f"load: {file} is damaged or cut short ({file.stat().st_size} bytes; {error}). "
                "Nothing was loaded: restore it."
            ) from None

    def _add_pickled(self, file: Path) -> None:
        for name, tensor in _unpickled(file).items():
            self._add(file, name, tensor.shape, lambda tensor=tensor: tensor)

    def _strip(self) -> None:
        """Drop the prefixes that all names have, and the marks of compiled submodules."""
        names = {name: name.replace("_orig_mod.", "") for name in self.shapes}
        while prefix := next((p for p in PREFIXES if names and all(n.startswith(p) for n in names.values())), None):
            names = {name: short.removeprefix(prefix) for name, short in names.items()}
        self.shapes = {short: self.shapes[name] for name, short in names.items()}
        self._readers = {short: self._readers[name] for name, short in names.items()}


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ValueError(f"load: there is no file or folder {path}.")
    if path.is_file():
        if path.suffix == ".safetensors" or path.suffix in PICKLED:
            return [path]
        raise ValueError(
            f"load: {path} is none of .safetensors, {', '.join(PICKLED)}. Give a file of tensors or its folder."
        )
    for index in sorted(path.glob("*.index.json")):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"load: {index} is damaged: it has no weight_map. Copy the folder again.") from None
        return [path / shard for shard in sorted(shards)]
    for name in ("model.safetensors", "pytorch_model.bin"):  # beside which an optimizer's state may lie
        if (path / name).exists():
            return [path / name]
    found = sorted(path.glob("*.safetensors")) or sorted(file for file in path.iterdir() if file.suffix in PICKLED)
    if not found:
        raise ValueError(
            f"load: {path} has no file of tensors (.safetensors, {', '.join(PICKLED)}). Give a saved model."
        )
    return found


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"load: {file} holds more than tensors, or is damaged, and is not opened ({_first_line(error)}). "
            "Save the state dict alone: torch.save(model.state_dict(), ...)."
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError) as error:
        raise ValueError(f"load: {file} is damaged ({_first_line(error)}). Nothing was loaded: restore it.") from None
    while isinstance(content, dict) and not _is_state(content):
        content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), None)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"load: {file} holds no state dict (names and tensors). Save model.state_dict().")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]


def _is_state(content: dict[Any, Any]) -> bool:
    return bool(content) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
