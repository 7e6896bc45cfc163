"""What configs check when they are made, so that a mistake is found where it was written."""

from typing import Any

from exgate.layers.ffn import ACTIVATIONS

COUNTS = ("dim", "blocks", "layers", "heads", "kv_heads", "hidden", "state_size", "qkv_block", "multiple")
CHOICES = {
    "input_gate": ("exp", "sigmoid"),
    "forget_gate": ("sigmoid", "exp"),
    "recurrent_init": ("zeros", "uniform"),
    "ffn_activation": tuple(ACTIVATIONS),
}


def check(config: Any) -> None:
    """Raise ValueError, with the name of the model, where a field that it has is out of range."""
    name, fields = type(config).__module__.rpartition(".")[2], vars(config)
    for field in COUNTS:
        if fields.get(field) is not None and fields[field] < 1:
            raise ValueError(f"{name}: {field} is {fields[field]}; it should be at least 1.")
    if not 0 <= fields.get("dropout", 0) < 1:
        raise ValueError(f"{name}: dropout is {fields['dropout']}; it should be from 0 to below 1, a probability.")
    for field, known in CHOICES.items():
        if fields.get(field, known[0]) not in known:
            raise ValueError(
                f"{name}: {field} is {fields[field]!r}; it should be one of {', '.join(map(repr, known))}."
            )
