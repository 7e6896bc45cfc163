"""Llama-style Transformers (Touvron et al. 2023, arXiv:2302.13971): the baseline that the xLSTM paper compares with."""

from dataclasses import dataclass

from exgate.layers.attention import AttentionLayer
from exgate.layers.ffn import FFN
from exgate.layers.norm import RMSNorm
from exgate.layers.stack import Residual, Stack
from exgate.models import fields
from exgate.models.lm import LanguageModel, materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        vocab_size, dim: V and D.
        blocks: each attention and an FFN.
        heads: they divide dim.
        kv_heads: heads of keys and values; None is heads.
        ffn_dim: inner width of the FFN; None is 8/3 dim rounded down, then up to a multiple of 64.
        window: a step sees the newest `window` steps; None sees the whole document. Without it the state grows with
            every step, by 2 dim kv_heads / heads numbers a block: also over the windows of stateful training.
        rope_theta: base of the rotary positions; 0 leaves them out.
        tie_embeddings: the head is the embedding's weight.
        dropout: of the embedding and of each residual branch.
        soft_cap: of the logits; 0 is none.
        ffn_activation: see `exgate.layers.ffn.ACTIVATIONS`.
        norm_eps: of every norm.
    Raises:
        ValueError: less than one block.
    """

    vocab_size: int
    dim: int
    blocks: int
    heads: int
    kv_heads: int | None = None
    ffn_dim: int | None = None
    window: int | None = None
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    dropout: float = 0.0
    soft_cap: float = 0.0
    ffn_activation: str = "silu"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        fields.check(self)


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config, initialised as the xLSTM paper's baseline; on the meta device, its shapes."""
    where = {"device": "meta", "dtype": dtype}
    model = LanguageModel(
        config.vocab_size,
        Stack(_block(config, where) for _ in range(config.blocks)),
        RMSNorm(config.dim, eps=config.norm_eps, **where),
        dim=config.dim,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        config=config,
        replayable=False,
        **where,
    )
    return materialise(model, device)


def _block(config: Config, where: dict) -> Stack:
    branches = 2 * config.blocks
    hidden = 64 * -(-(8 * config.dim // 3) // 64) if config.ffn_dim is None else config.ffn_dim
    attention = AttentionLayer(
        config.dim, heads=config.heads, kv_heads=config.kv_heads, rope_theta=config.rope_theta, window=config.window,
        blocks=branches, **where,
    )  # fmt: skip
    ffn = FFN(config.dim, hidden, activation=config.ffn_activation, blocks=branches, **where)
    return Stack(
        Residual(RMSNorm(config.dim, eps=config.norm_eps, **where), layer, dropout=config.dropout)
        for layer in (attention, ffn)
    )


def llama_125m(vocab_size: int = 50304) -> Config:
    """The xLSTM paper's baseline of 125M: 162,220,800 parameters."""
    return Config(vocab_size=vocab_size, dim=768, blocks=12, heads=12)


def llama_350m(vocab_size: int = 50304) -> Config:
    """The xLSTM paper's baseline of 350M: 406,635,520 parameters."""
    return Config(vocab_size=vocab_size, dim=1024, blocks=24, heads=16)


def llama_tiny(vocab_size: int = 257) -> Config:
    """Four blocks, 918,912 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, blocks=4, heads=4)
