"""The language model that every architecture file builds: embedding, stack, norm, head."""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.init import normal_
from exgate.layers.linear import Embedding, Linear, product
from exgate.layers.norm import HeadNorm, LayerNorm, RMSNorm
from exgate.layers.stack import Stack, reset_parameters
from exgate.models.cross_entropy import cross_entropy
from exgate.ops.state import State


class LanguageModel(nn.Module):
    """Token in, logits for the next token out, with a state that stands for everything read so far.

    One `forward` trains, reads a prompt and decodes: a sequence of length 1 is the step.

    Args:
        vocab_size: V.
        stack: the blocks, D wide at their input.
        norm: the last norm; as wide as the stack's output.
        dim: D, the embedding's width.
        width: of the stack's output, which the head reads; None is dim.
        tie_embeddings: the head is the embedding's weight; there is no `head.weight`.
        soft_cap: c in c tanh(logits / c); 0 caps nothing.
        dropout: of the embedding's output.
        init_std: standard deviation of the initial embedding and head; None is sqrt(2 / (5 D)).
        config: the dataclass that this was built from; kept, not read.
        replayable: every step is the same operations, so that one can be recorded (`exgate.generate.replay`); False
            where the state grows.
    Raises:
        ValueError: embeddings are tied, but widths differ.
    """

    def __init__(
        self,
        vocab_size: int,
        stack: Stack,
        norm: nn.Module,
        *,
        dim: int,
        width: int | None = None,
        tie_embeddings: bool = False,
        soft_cap: float = 0.0,
        dropout: float = 0.0,
        init_std: float | None = None,
        config: Any = None,
        replayable: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        width = dim if width is None else width
        if tie_embeddings and width != dim:
            raise ValueError(
                f"LanguageModel: tie_embeddings needs the stack's output as wide as the embedding, "
                f"but they have {width} and {dim}. Set tie_embeddings=False, or make them equal."
            )
        self.config, self.soft_cap, self.dropout, self.replayable = config, soft_cap, dropout, replayable
        self.tie_embeddings, self.init_std = tie_embeddings, init_std
        self.embed = Embedding(vocab_size, dim, device=device, dtype=dtype)
        self.stack, self.norm = stack, norm
        self.head: Any = None if tie_embeddings else Linear(width, vocab_size, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Start all weights anew, as published: what to call after `to_empty` on a model built on the meta device."""
        for table in (self.embed, self.head):
            if table is not None:
                std = math.sqrt(2 / (5 * table.weight.shape[1])) if self.init_std is None else self.init_std
                normal_(table.weight, std=std)
        self.stack.reset_parameters()
        reset_parameters(self.norm)

    def forward(self, tokens: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """tokens (B, T) whole numbers, reset (B, T) -> logits (B, T, V) in float32 (or float64) and the state."""
        x, state = self.hidden(tokens, state, reset=reset)
        return self.logits(x), state

    def hidden(self, tokens: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """tokens (B, T), reset (B, T) -> (B, T, D) after the last norm, and the state.

        Raises:
            ValueError: tokens are not (B, T) whole numbers below V (looked at on the CPU), or T is 0.
        """
        if not isinstance(tokens, Tensor):
            raise ValueError(f"LanguageModel: tokens are a {type(tokens).__name__}; they should be a tensor (B, T).")
        if tokens.dim() != 2 or tokens.shape[1] == 0 or tokens.is_floating_point():
            raise ValueError(
                f"LanguageModel: tokens have shape {tuple(tokens.shape)} and type {tokens.dtype}; "
                "they should be (B, T) whole numbers with T at least 1."
            )
        try:
            x = self.embed(tokens)
        except IndexError:
            raise ValueError(
                f"LanguageModel: tokens go from {int(tokens.min())} to {int(tokens.max())}, but the vocabulary has "
                f"{len(self.embed.weight)} entries. Is it the model's own tokenizer?"
            ) from None
        x = F.dropout(x, self.dropout, self.training)
        x, state = self.stack(x, state, reset=reset)
        return self.norm(x), state

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) from `hidden` -> logits (..., V) in float32 (or float64): for the steps that one needs them of."""
        logits = product(x, self.embed.weight) if self.head is None else self.head(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.soft_cap * torch.tanh(logits / self.soft_cap) if self.soft_cap else logits

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State = None,
        *,
        reset: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, State]:
        """Cross-entropy of `targets` (B, T) in nats, and the state. Never holds (B, T, V) logits.

        Args:
            tokens: (B, T).
            targets: (B, T), usually tokens one step ahead; -100 is ignored.
            state, reset: as in `forward`.
            reduction: "mean" (nats per token), "sum", or "none": (B, T), 0 where ignored.
        Raises:
            ValueError: shapes disagree, or a target is outside the vocabulary.
        """
        x, state = self.hidden(tokens, state, reset=reset)
        nll = cross_entropy(x, self._head_weight(), targets, soft_cap=self.soft_cap, reduction=reduction)
        return nll, state

    def generate(self, prompts: Tensor | list[Tensor] | None = None, **options: Any) -> Any:
        """Continue prompts: `exgate.generate.sampling.generate(self, prompts, **options)`."""
        from exgate.generate.sampling import generate

        return generate(self, prompts, **options)

    def num_parameters(self) -> int:
        """How many numbers are learnt; a tied head counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _head_weight(self) -> Tensor:
        if self.head is None:
            return self.embed.weight
        return self.head.weight if isinstance(self.head, nn.Linear) else self.head.dense()

    def extra_repr(self) -> str:
        return f"tie_embeddings={self.tie_embeddings}, soft_cap={self.soft_cap}"


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser in two groups: with weight decay, and without.

    As in the xLSTM papers: every `weight` decays (projections, convolutions, gates, head) except those of norms and of
    the embedding, tied head included. Biases, skips, peepholes and recurrent weights do not. A layer whose paper lets
    more decay names it in `decayed`.
    """
    spared = (RMSNorm, LayerNorm, HeadNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding)
    decayed, others = {}, {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decays = (name == "weight" and not isinstance(module, spared)) or name in getattr(module, "decayed", ())
            (decayed if decays else others)[parameter] = None
    return [
        {"params": [parameter for parameter in decayed if parameter not in others], "weight_decay": weight_decay},
        {"params": list(others), "weight_decay": 0.0},
    ]


Model = TypeVar("Model", bound=nn.Module)


def materialise(model: Model, device: torch.device | str | None = None) -> Model:
    """A model that was built on the meta device, with memory and initial weights on `device` (None: the default)."""
    device = torch.get_default_device() if device is None else torch.device(device)
    if device.type != "meta":
        model.to_empty(device=device)
        reset_parameters(model)
    return model


def layout(pattern: str, blocks: int, letters: str = "msa") -> str:
    """One letter per block: `pattern` repeated and cut to `blocks`.

    Raises:
        ValueError: the pattern is empty, longer than `blocks`, or has a letter that is not in `letters`.
    """
    odd = sorted(set(pattern) - set(letters))
    if odd or not pattern:
        raise ValueError(
            f"pattern is {pattern!r}; it should be made of the letters {', '.join(letters)}, one per block."
        )
    if blocks < 1 or len(pattern) > blocks:
        raise ValueError(
            f"pattern {pattern!r} has {len(pattern)} letters for blocks={blocks}. Shorten it, or add blocks."
        )
    return (pattern * blocks)[:blocks]
