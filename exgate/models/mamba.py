"""Mamba language models (Gu and Dao 2023, arXiv:2312.00752): a baseline without attention and without an FFN."""

from dataclasses import dataclass

from exgate.layers.mamba import MambaLayer
from exgate.layers.norm import RMSNorm
from exgate.layers.stack import Residual, Stack
from exgate.models import fields
from exgate.models.lm import LanguageModel, materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        vocab_size, dim: V and D.
        blocks: residual blocks, one `MambaLayer` each.
        state_size: N, states per channel.
        conv_kernel: taps of the convolution.
        inner_dim: channels; None is 2 dim.
        dt_rank: rank of the product that gives the step sizes; None is dim / 16, rounded up.
        tie_embeddings: the head is the embedding's weight, as the authors have it (the xLSTM paper's baseline: not).
        dropout: of the embedding and of each residual branch.
        soft_cap: of the logits; 0 is none.
        bias: in the layers' first and last product.
        norm_eps: of every norm.
    """

    vocab_size: int
    dim: int
    blocks: int
    state_size: int = 16
    conv_kernel: int = 4
    inner_dim: int | None = None
    dt_rank: int | None = None
    tie_embeddings: bool = False
    dropout: float = 0.0
    soft_cap: float = 0.0
    bias: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        fields.check(self)


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config, initialised as published; on the meta device, its shapes."""
    where = {"device": "meta", "dtype": dtype}

    def block() -> Residual:
        layer = MambaLayer(
            config.dim, state_size=config.state_size, conv_kernel=config.conv_kernel, inner_dim=config.inner_dim,
            dt_rank=config.dt_rank, bias=config.bias, blocks=config.blocks, **where,
        )  # fmt: skip
        return Residual(RMSNorm(config.dim, eps=config.norm_eps, **where), layer, dropout=config.dropout)

    model = LanguageModel(
        config.vocab_size,
        Stack(block() for _ in range(config.blocks)),
        RMSNorm(config.dim, eps=config.norm_eps, **where),
        dim=config.dim,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        init_std=0.02,
        config=config,
        **where,
    )
    return materialise(model, device)


def mamba_125m(vocab_size: int = 50304) -> Config:
    """The xLSTM paper's baseline, 167,787,264 parameters."""
    return Config(vocab_size=vocab_size, dim=768, blocks=24)


def mamba_350m(vocab_size: int = 50304) -> Config:
    """The xLSTM paper's baseline, 423,052,288 parameters."""
    return Config(vocab_size=vocab_size, dim=1024, blocks=48)


def mamba_tiny(vocab_size: int = 257) -> Config:
    """Four blocks, 532,352 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, blocks=4)
