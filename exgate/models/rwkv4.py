"""Language models of RWKV-4 (Peng et al. 2023, arXiv:2305.13048): time mixing and channel mixing in turn."""

from dataclasses import dataclass

from torch import Tensor, nn

from exgate.layers.init import orthogonal_
from exgate.layers.norm import LayerNorm
from exgate.layers.rwkv import ChannelMix, TimeMix
from exgate.layers.stack import Residual, Stack, reset_parameters
from exgate.models import fields
from exgate.models.lm import LanguageModel, materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        vocab_size, dim: V and D.
        blocks: a time mixing and a channel mixing each, both residual branches.
        ffn_dim: inner width of channel mixing; None is 4 dim.
        tie_embeddings: the head is the embedding's weight.
        dropout: of the embedding and of each residual branch.
        soft_cap: of the logits; 0 is none.
        norm_eps: of every norm.
    Raises:
        ValueError: there is no block.
    """

    vocab_size: int
    dim: int
    blocks: int
    ffn_dim: int | None = None
    tie_embeddings: bool = False
    dropout: float = 0.0
    soft_cap: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        fields.check(self)


class First(nn.Module):
    """The norm between embedding and blocks, as a layer that remembers nothing: the state is ()."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def reset_parameters(self) -> None:
        reset_parameters(self.norm)

    def forward(self, x: Tensor, state: tuple[()] | None = None, *, reset: Tensor | None = None):
        """(B, T, D) -> (B, T, D), and ()."""
        return self.norm(x), ()


class RWKV4(LanguageModel):
    """A `LanguageModel` whose embedding and head start as RWKV-4's."""

    def reset_parameters(self) -> None:
        """The embedding orthogonal and about 1e-4 small (a norm follows), the head orthogonal and half as large."""
        super().reset_parameters()
        rows, columns = self.embed.weight.shape
        orthogonal_(self.embed.weight, 1e-4 * max(rows, columns) ** 0.5)
        if self.head is not None:
            orthogonal_(self.head.weight, 0.5 * max(rows / columns, 1) ** 0.5)


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config, initialised as published; on the meta device, its shapes."""
    where = {"device": "meta", "dtype": dtype}

    def norm() -> LayerNorm:
        return LayerNorm(config.dim, eps=config.norm_eps, bias=True, **where)

    blocks: list[nn.Module] = [First(norm())]
    for block in range(config.blocks):
        place = {"block": block, "blocks": config.blocks, **where}
        layers = TimeMix(config.dim, **place), ChannelMix(config.dim, config.ffn_dim, **place)
        blocks.append(Stack(Residual(norm(), layer, dropout=config.dropout) for layer in layers))
    model = RWKV4(
        config.vocab_size,
        Stack(blocks),
        norm(),
        dim=config.dim,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        config=config,
        **where,
    )
    return materialise(model, device)


def rwkv4_125m(vocab_size: int = 50304) -> Config:
    """169,383,936 parameters; the baseline of the xLSTM paper, and the published 169M with its vocabulary of 50277."""
    return Config(vocab_size=vocab_size, dim=768, blocks=12)


def rwkv4_350m(vocab_size: int = 50304) -> Config:
    """430,452,736 parameters."""
    return Config(vocab_size=vocab_size, dim=1024, blocks=24)


def rwkv4_tiny(vocab_size: int = 257) -> Config:
    """Two blocks, 495,104 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, blocks=2)
