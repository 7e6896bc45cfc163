"""Models whose large matrices are stored in few bits: smaller and, where memory is the limit, as much faster."""

from __future__ import annotations

import copy

from torch import nn

from exgate.layers.linear import CompactEmbedding, CompactLinear
from exgate.models.lm import LanguageModel


def compact(model: LanguageModel, weights: str) -> LanguageModel:
    """A copy of a model for inference, with the matrices of its `nn.Linear`s and its head in bfloat16 or int8.

    Arithmetic, activations and state are float32, so little but the weights is rounded (int8: see `exgate.ops.linear`).
    The embedding and recurrent weights become bfloat16; norms, biases, convolutions and block-diagonal weights float32.
    A tied head is stored apart from the embedding.

    Args:
        model: stays as it is. What is stored in bfloat16 there already is shared, not copied.
        weights: "bf16", or "int8": whole numbers from -127 to 127 and a scale for each output.
    Raises:
        ValueError: there is no such `weights`.
    """
    if weights not in ("bf16", "int8"):
        raise ValueError(f"compact: weights is {weights!r}; it should be 'bf16' or 'int8'.")
    # Given to deepcopy as copied already, the large matrices never are.
    done: dict[int, nn.Module] = {
        id(module): CompactLinear(module.weight, module.bias, weights)
        for module in model.modules()
        if isinstance(module, nn.Linear)
    }
    done[id(model.embed)] = CompactEmbedding(model.embed.weight)
    small = copy.deepcopy(model, done)
    if small.head is None:
        small.head = CompactLinear(model.embed.weight, None, weights)
    for name, parameter in small.named_parameters():
        # Recurrent weights are matrices too, and the step reads them as they are stored.
        parameter.data = parameter.data.bfloat16() if name.endswith("recurrent") else parameter.data.float()
        parameter.requires_grad_(False)
    return small.eval()
