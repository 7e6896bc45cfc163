"""Where a generation stands, in memory and in a file: all that is needed to go on as if it had never stopped."""

import hashlib
import json
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from exgate.files import replaced
from exgate.ops.state import State, flatten, map_state, unflatten
from exgate.ops.state import select as select_rows

_FORMAT = "exgate.session.1"
_TENSORS = ("logits", "seen", "fed", "last", "random")


@dataclass(frozen=True)
class Session:
    """What a model has read and written, per row, and what it would say next.

    Args:
        state: the model's state after every token so far (prompt and answer).
        logits: (B, V), the model's output after the last of them.
        seen: (B, V) bool, which tokens there were (for the repetition penalty).
        fed: (B,) how many there were.
        last: (B,) the last of them.
        random: (B, N) uint8, the states of the rows' random generators.
        held: per row, the last tokens if they may begin a stop sequence; they have been returned already.
        text: per row, bytes of text that have not been shown: half a character, or what may begin a stop string.
    """

    state: State
    logits: Tensor
    seen: Tensor
    fed: Tensor
    last: Tensor
    random: Tensor
    held: list[list[int]]
    text: list[bytes]

    @property
    def rows(self) -> int:
        """How many texts go on."""
        return len(self.held)

    def map(self, function: Any) -> "Session":
        """The same session with `function` applied to each of its tensors, random states excepted."""
        changed = {name: function(getattr(self, name)) for name in ("logits", "seen", "fed", "last")}
        return replace(self, state=map_state(function, self.state), **changed)

    def select(self, rows: list[int]) -> "Session":
        """The session of some rows, in this order; a row may be taken several times, to go on in several ways."""
        index = torch.tensor(rows)
        chosen = self.map(lambda tensor: select_rows(tensor, index.to(tensor.device)))
        return replace(
            chosen,
            random=self.random[index],
            held=[list(self.held[row]) for row in rows],
            text=[self.text[row] for row in rows],
        )


def fingerprint(model: Any) -> dict[str, str]:
    """What tells one model from another: its kind, its config, and a hash of a sample of its weights.

    The weights are compared as bfloat16, so that a model has one fingerprint in float32 and in bfloat16.
    """
    config = asdict(model.config) if is_dataclass(model.config) else dict(model.config)  # pyright: ignore[reportArgumentType]
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        sample = weight.detach().flatten()[:64].to("cpu", torch.bfloat16)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    kind = type(model.config).__module__.rpartition(".")[2]
    return {"model": kind, "config": json.dumps(config, sort_keys=True, default=str), "weights": digest.hexdigest()}


def save(path: str | Path, session: Session, model: Any, *, tokenizer: str = "") -> None:
    """Write a session to one .safetensors file, whole or not at all.

    Args:
        model: the model that it belongs to; `load` refuses any other.
        tokenizer: a hash of the tokenizer, if it has text; `load` refuses another one.
    """
    path = Path(path)
    tensors = {f"state.{name}": tensor for name, tensor in flatten(session.state).items()}
    tensors |= {name: getattr(session, name) for name in _TENSORS}
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    about = {
        "format": _FORMAT,
        **fingerprint(model),
        "dtype": str(session.logits.dtype).removeprefix("torch."),
        "tokens": json.dumps(session.fed.tolist()),
        "tokenizer": tokenizer,
        "held": json.dumps(session.held),
        "text": json.dumps([text.hex() for text in session.text]),
    }
    with replaced(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def load(path: str | Path, model: Any, *, tokenizer: str = "") -> Session:
    """The session in a file that `save` wrote, on the device of `model`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no session or is damaged, or belongs to another model or tokenizer.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no state file {path}. `exgate generate ... --state FILE` writes one.")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no state file ({error}). Write it again, or use a copy.") from error
    if about.get("format") != _FORMAT:
        raise ValueError(f"{path} is no state file: its format is {about.get('format')!r}, not {_FORMAT!r}.")
    _check(path, about, fingerprint(model) | {"tokenizer": tokenizer})
    parameter = next(model.parameters())
    with torch.inference_mode():
        _, like = model(torch.zeros(1, 1, dtype=torch.long, device=parameter.device))
    flat = flatten(like)
    state = {name.removeprefix("state."): tensors[name] for name in tensors if name.startswith("state.")}
    state = {name: tensor.to(flat[name].dtype) if name in flat else tensor for name, tensor in state.items()}
    session = Session(
        unflatten(state, like),
        *(tensors[name] for name in _TENSORS),
        held=json.loads(about["held"]),
        text=[bytes.fromhex(text) for text in json.loads(about["text"])],
    )
    return session.map(lambda tensor: tensor.to(parameter.device))


def _check(path: Path, about: dict[str, str], here: dict[str, str]) -> None:
    """Refuse, in words, a file that was written by another model or with another tokenizer."""
    if about["model"] != here["model"]:
        raise ValueError(f"{path} is the state of a model '{about['model']}', but this model is '{here['model']}'.")
    if about["config"] != here["config"]:
        theirs, ours = json.loads(about["config"]), json.loads(here["config"])
        odd = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
        told = ", ".join(f"{key} = {theirs.get(key)!r} there and {ours.get(key)!r} here" for key in odd[:3])
        raise ValueError(f"{path} is the state of another model: {told}. Load the model that wrote it.")
    if about["weights"] != here["weights"]:
        raise ValueError(
            f"{path} is the state of a model of the same shape with other weights (an earlier checkpoint, perhaps), "
            "to which it would mean nothing. Load the model that wrote it, or feed the text again."
        )
    if about["tokenizer"] != here["tokenizer"]:
        raise ValueError(f"{path} was written with another tokenizer. Use the model folder that wrote it.")
