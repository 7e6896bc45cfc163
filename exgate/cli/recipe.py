"""Recipes: one TOML file for one run, in the sections [model], [data], [optim] and [run], each of them a dataclass.

[model] holds "name", a file of `exgate/models/`, and fields of its Config; `vocab_size` is the tokenizer's if left out.
"""

import dataclasses
import importlib
import json
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exgate import hint
from exgate.models import io

DEFAULT = "small"
FILE = "recipe.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The text, how it is cut into tokens, and those into batches.

    Args:
        sources: files, folders, globs (gz, bz2, xz and jsonl too), "-", "hf:NAME[:COLUMN[:SPLIT]]", or "python-manual".
        validation: sources of validation text; none: a part of the documents is set aside.
        validation_fraction: that part, of all characters; 0 for no validation.
        validation_limit: the most characters of validation text to score; 0 for all of it.
        errors: bytes that are not UTF-8: "strict" stops, "replace" puts U+FFFD in their place, "ignore" drops them.
        tokenizer: "bytes", "bpe" (trained on the training text), or a tokenizer file or a folder that has one.
        bpe_size: tokens of a BPE tokenizer that is trained here.
        cache: a folder for the tokens, for text larger than memory; empty: they stay in memory.
        window: T, tokens per window: how far the gradient reaches.
        batch: B, windows per step.
        stateful: read B streams in order and carry the state from window to window (truncated backpropagation in time).
    """

    sources: tuple[str, ...] = ("python-manual",)
    validation: tuple[str, ...] = ()
    validation_fraction: float = 0.05
    validation_limit: int = 0
    errors: str = "strict"
    tokenizer: str = "bytes"
    bpe_size: int = 4096
    cache: str = ""
    window: int = 256
    batch: int = 16
    stateful: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW, its schedule and its numbers.

    Args:
        steps: of the whole run.
        lr: peak learning rate.
        schedule: after the warm-up: "cosine", "linear", "constant" or "wsd" (stable, then a linear decay).
        warmup: steps of linear warm-up.
        min_ratio: the last learning rate over the peak.
        decay: share of the steps in which wsd comes down.
        weight_decay: of the weights that decay (not norms, biases, embedding, recurrent weights).
        betas: of AdamW.
        eps: of AdamW.
        clip: largest norm of the gradient; 0 for no limit.
        microbatch: windows computed at a time, 0 for all of a batch: less memory, the same gradient.
        precision: "float32", or "bfloat16" for autocast (the weights stay in float32).
        seed: of the initial weights, the order of the data, the validation split and dropout.
    """

    steps: int = 1000
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 100
    min_ratio: float = 0.1
    decay: float = 0.2
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float = 1.0
    microbatch: int = 0
    precision: str = "float32"
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What does not change the result, and may change when a run goes on.

    Args:
        folder: where all that the run writes goes; empty: runs/ and the recipe's name.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        log_every: steps per row of metrics.jsonl.
        evaluate_every: steps between validations; 0: only at the end.
        checkpoint_every: steps between checkpoints; 0: only at the end.
        keep: how many checkpoints stay, beside the best model.
        picture: draw loss.png.
        tensorboard: write TensorBoard events.
        recompute: compute activations again in the backward pass instead of keeping them (activation checkpointing).
        compile: compile the model with torch.compile.
    """

    folder: str = ""
    device: str = "auto"
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 2
    picture: bool = True
    tensorboard: bool = False
    recompute: bool = False
    compile: bool = False


SECTIONS = {"data": Data, "optim": Optim, "run": Run}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run: the model's Config (a vocab_size of 0 is the tokenizer's), and the other sections."""

    model: Any
    data: Data = dataclasses.field(default_factory=Data)
    optim: Optim = dataclasses.field(default_factory=Optim)
    run: Run = dataclasses.field(default_factory=Run)


def read(where: str, flags: Sequence[str] = (), *, help: str = "") -> Recipe:
    """The recipe of a file, of a run folder or of a name in `recipes/`, with fields overridden by flags.

    Args:
        where: a path, or a name such as "small".
        flags: `--section.field value ...`; a wrong one, or `--help`, prints and raises SystemExit.
        help: what `--help` says before the flags.
    Raises:
        FileNotFoundError: there is no such recipe; names the nearest one.
        ValueError: not TOML, an unknown section or key (names the nearest right one), or a value of another type.
    """
    file = find(where)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe: '{file}' is not TOML: {error}") from None
    rest, name = _taken(list(flags), "--model.name")
    if name:
        table["model"] = {**_shared(table.get("model", {}), name, rest), "name": name}
    recipe = from_dict(table, where=str(file))
    # A run's own folder, even if it has been moved since its recipe was written.
    if not recipe.run.folder or Path(where).is_dir():
        folder = where if Path(where).is_dir() else str(Path("runs", file.stem))
        recipe = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, folder=folder))
    return _overridden(recipe, rest, where, help) if rest else recipe


def find(where: str) -> Path:
    """The file of a recipe: a path, a run folder's `recipe.toml`, or a name in `recipes/`."""
    path = Path(where)
    if path.is_dir() and (path / FILE).exists():
        return path / FILE
    if path.is_file():
        return path
    known = names()
    if path.name.removesuffix(".toml") in known and len(path.parts) == 1:
        return known[path.name.removesuffix(".toml")]
    if path.is_dir():
        raise FileNotFoundError(f"recipe: the folder '{where}' is no run: it has no {FILE}")
    raise FileNotFoundError(
        f"recipe: there is no recipe file or run folder '{where}', nor a recipe of this name. "
        + hint.near(path.stem, known)
    )


def names() -> dict[str, Path]:
    """The recipes that come with exgate: beside the package in a checkout, inside it when installed."""
    package = Path(__file__).parent.parent
    files = [file for folder in (package / "recipes", package.parent / "recipes") for file in folder.glob("*.toml")]
    return {file.stem: file for file in sorted(files)}


def from_dict(table: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """A recipe from what a TOML file holds. Raises ValueError as `read` does."""
    for key, value in table.items():
        if key not in ("model", *SECTIONS):
            nearest = hint.near(key, ["model", *SECTIONS])
            raise ValueError(f"recipe: '{where}' has an unknown section [{key}]. {nearest}")
        if not isinstance(value, dict):
            raise ValueError(f"recipe: '{where}' has [{key}] = {value!r}, but it should be a section with keys in it")
    fields = dict(table.get("model", {}))
    name = fields.pop("name", None)
    if name is None:
        raise ValueError(
            f"recipe: '{where}' names no model; add to [model] name = one of {', '.join(io.language_models())}"
        )
    if name in set(io.names()) - set(io.language_models()):
        known = ", ".join(io.language_models())
        raise ValueError(f"recipe: [model] of '{where}': '{name}' is not a language model; choose one of {known}")
    try:
        config = io.config_from_dict({"model": name, "vocab_size": 0, **fields})
    except ValueError as error:
        raise ValueError(f"recipe: [model] of '{where}': {error}") from None
    parts = {key: _section(cls, table.get(key, {}), f"[{key}] of '{where}'") for key, cls in SECTIONS.items()}
    return Recipe(model=config, **parts)


def to_dict(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The way back from `from_dict`: plain values, without those that are None."""
    model = io.config_to_dict(recipe.model)
    sections = {"model": {"name": model.pop("model"), **model}}
    sections |= {key: dataclasses.asdict(getattr(recipe, key)) for key in SECTIONS}
    return {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v is not None}
        for section, fields in sections.items()
    }


def dumps(recipe: Recipe) -> str:
    """A recipe as TOML, every field written out."""
    sections = []
    for section, fields in to_dict(recipe).items():
        sections.append("\n".join([f"[{section}]", *(f"{key} = {_value(value)}" for key, value in fields.items())]))
    return "\n\n".join(sections) + "\n"


def differences(one: Recipe, other: Recipe) -> list[str]:
    """The fields outside [run] in which two recipes differ, in words; a vocab_size of 0 agrees with any."""
    left, right = to_dict(one), to_dict(other)
    found = []
    for section in ("model", "data", "optim"):
        for key in left[section] | right[section]:
            a, b = left[section].get(key), right[section].get(key)
            if a != b and not (key == "vocab_size" and 0 in (a, b)):
                found.append(f"{section}.{key} was {a!r} and is now {b!r}")
    return found


def _section(cls: type, table: Mapping[str, Any], where: str) -> Any:
    types = typing.get_type_hints(cls)
    for key in table:
        if key not in types:
            raise ValueError(f"recipe: {where} has an unknown key '{key}'. {hint.near(key, types)}")
    return cls(**{key: _typed(value, types[key], f"{where}: {key}") for key, value in table.items()})


def _typed(value: Any, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        many = kinds[-1] is Ellipsis
        if many and isinstance(value, str):
            value = [value]  # sources = "book.txt" can only mean one thing
        if not isinstance(value, list) or not (many or len(value) == len(kinds)):
            words = "a list" if many else f"a list of {len(kinds)}"
            raise ValueError(f"recipe: {where} is {value!r}; it should be {words}")
        return tuple(_typed(item, kinds[0] if many else kinds[i], where) for i, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"recipe: {where} is {value!r}; it should be of type {kind.__name__}")
    return value


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # JSON's strings are TOML's, but for one control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F") if isinstance(value, str) else repr(value)


def _shared(fields: Mapping[str, Any], name: str, flags: list[str]) -> Mapping[str, Any]:
    """What is left of [model] for another model: the fields that it has too, and from flags those that it needs."""
    if name == fields.get("name") or name not in io.language_models():
        return fields
    module = importlib.import_module(f"exgate.models.{name}")
    known = {field.name: field for field in dataclasses.fields(module.Config)}
    shared = {key: value for key, value in fields.items() if key in known}
    needed = [key for key, field in known.items() if field.default is dataclasses.MISSING and key not in shared]
    given = {key: _taken(flags, f"--model.{key}")[1] for key in needed if key != "vocab_size"}
    missing = " ".join(f"--model.{key} VALUE" for key, word in given.items() if word is None)
    if missing:
        raise ValueError(f"recipe: {name} needs more than it shares with the recipe's model; add {missing}")
    return shared | {key: int(word) if word.isdecimal() else word for key, word in given.items() if word}


def _taken(flags: list[str], name: str) -> tuple[list[str], str | None]:
    """The flags without `name VALUE`, which decides on the others, and the value."""
    for i, flag in enumerate(flags):
        if flag.startswith(f"{name}="):
            return flags[:i] + flags[i + 1 :], flag.partition("=")[2]
        if flag == name:
            if i + 1 == len(flags):
                choice = f", one of {', '.join(io.language_models())}" if name == "--model.name" else ""
                raise ValueError(f"recipe: {name} needs a value{choice}")
            return flags[:i] + flags[i + 2 :], flags[i + 1]
    return flags, None


def _overridden(recipe: Recipe, flags: list[str], where: str, help: str) -> Recipe:
    import tyro

    kinds = [("model", type(recipe.model)), *SECTIONS.items()]
    cls = dataclasses.make_dataclass("Recipe", kinds, frozen=True, kw_only=True)
    default = cls(**{key: getattr(recipe, key) for key, _ in kinds})
    flags = [flag.capitalize() if flag in ("true", "false") else flag for flag in flags]
    result = tyro.cli(
        cls,
        default=default,
        args=flags,
        prog=f"exgate train {where}",
        description=help,
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )
    return Recipe(**{key: getattr(result, key) for key, _ in kinds})
