"""From logits to the next token: pure functions on (B, V) logits, and `Sampler`, which applies them in a fixed order.

A filtered token has the logit -inf. No filter removes the best token, so at least one is always left.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of `seen` (B, V) tokens divided by `penalty`, negative ones multiplied (Keskar et al. 2019, 4.1).

    Both lower the probability for a penalty above 1, and raise it below 1.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k largest logits; those tied with the k-th all stay, so that nothing depends on their order."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest best tokens with probability p or more (Holtzman et al. 2020); the one that crosses p stays."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    probability = ordered.double().softmax(-1)
    before = probability.cumsum(-1) - probability
    # Nothing is before the best token, so it stays for any p above 0.
    drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, index, before >= p)
    return logits.masked_fill(drop, -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """The tokens with at least p times the probability of the best one (Nguyen et al. 2024)."""
    probability = logits.double().softmax(-1)
    return logits.masked_fill(probability < p * probability.amax(-1, keepdim=True), -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """One token per row by inversion: the first whose cumulative probability exceeds `uniform` (B,), in [0, 1).

    One number per row and token whatever V is, so a row's draws do not depend on the rows beside it.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[..., -1:]
    index = torch.searchsorted(cumulative, uniform.double()[..., None] * total, right=True)
    # Where rounding brings the product to `total` itself: the last token with any probability.
    last = (cumulative < total).sum(-1, keepdim=True)
    return torch.minimum(index, last)[..., 0]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next token is chosen: penalty, temperature, top-k, top-p, min-p in this order, then a draw.

    Args:
        temperature: logits are divided by it; 0 takes the best token (greedy) and no filter matters.
        top_k, top_p, min_p: see the functions of this file; None leaves them out.
        repetition_penalty: above 1 makes tokens that are already there less likely; 1 leaves it out.
        vocab_size: only ids below it are chosen: what the tokenizer knows, where a model's vocabulary is padded.
    Raises:
        ValueError: an option is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        def check(name: str, good: bool, range_: str, remedy: str) -> None:
            if not good:
                raise ValueError(f"generate: {name} is {getattr(self, name)}, but must be {range_}. {remedy}")

        check("temperature", 0 <= self.temperature < float("inf"), "0 or more", "0 takes the best token each time.")
        check("top_k", self.top_k is None or self.top_k >= 1, "1 or more", "Leave it out to keep all tokens.")
        check("top_p", self.top_p is None or 0 < self.top_p <= 1, "in (0, 1]", "1 keeps all tokens.")
        check("min_p", self.min_p is None or 0 <= self.min_p <= 1, "in [0, 1]", "0 keeps all tokens.")
        check("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0", "1 changes no logits.")
        check("vocab_size", self.vocab_size is None or self.vocab_size >= 1, "1 or more", "Leave it out for all ids.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, so that nothing is drawn."""
        return self.temperature == 0

    def filter(self, logits: Tensor, seen: Tensor) -> Tensor:
        """The logits (B, V) that a token is drawn from; `seen` (B, V) marks the tokens that the row has so far."""
        if self.vocab_size is not None and self.vocab_size < logits.shape[-1]:
            logits = logits.clone()
            logits[..., self.vocab_size :] = -torch.inf
        if self.repetition_penalty != 1:
            logits = repetition_penalty(logits, seen, self.repetition_penalty)
        if self.greedy:
            return logits
        # The best logit becomes 0 first, so that it stays 0 at any temperature, however small.
        least = torch.finfo(logits.dtype).tiny
        logits = (logits - logits.amax(-1, keepdim=True)) / max(self.temperature, least)
        if self.top_k is not None:
            logits = top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p < 1:
            logits = top_p(logits, self.top_p)
        if self.min_p:
            logits = min_p(logits, self.min_p)
        return logits

    def __call__(self, logits: Tensor, seen: Tensor, uniform: Tensor | None) -> Tensor:
        """The next token of each row, (B,): the best where greedy, else drawn with `uniform` (B,) in [0, 1)."""
        if not bool((logits.amax(-1) < torch.inf).all()):  # the largest is NaN if any is
            raise ValueError(
                "generate: the model's logits are NaN or infinite. Its weights are damaged, or its number type is too "
                "small for them: load it in float32."
            )
        logits = self.filter(logits.to(torch.promote_types(logits.dtype, torch.float32)), seen)
        if uniform is None:
            return logits.argmax(-1)
        return draw(logits, uniform)
