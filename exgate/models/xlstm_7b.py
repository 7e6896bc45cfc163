"""Language models of the xLSTM 7B architecture (Beck et al. 2025, arXiv:2503.13427): mLSTM and FFN in every block."""

from dataclasses import dataclass

from torch import nn

from exgate.layers.attention import AttentionLayer
from exgate.layers.ffn import FFN
from exgate.layers.mlstm import MLSTM7BLayer
from exgate.layers.norm import RMSNorm
from exgate.layers.slstm import SLSTMLayer
from exgate.layers.stack import Residual, Stack
from exgate.models import fields
from exgate.models.lm import LanguageModel, layout, materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know. Widths are explicit: published checkpoints round them by different rules.

    Args:
        vocab_size, dim: V and D.
        blocks: each a cell and an FFN.
        heads: of every layer.
        qk_dim, v_dim: widths of all queries (keys) and of all values together.
        ffn_dim: inner width of the FFN.
        pattern: m (mLSTM), s (sLSTM) or a (attention) for each block; a shorter pattern is repeated and cut. Blocks s
            and a are ours, not published in this architecture; norms and FFN are as in the other blocks. s is the sLSTM
            layer of the 2024 paper (width dim) with a norm of plain weight over its heads, and no convolution unless
            `conv_kernel` says so. a is that of `exgate.models.llama`: "ma" is a hybrid, whose state grows with time.
        tie_embeddings: the head is the embedding's weight.
        dropout: of the embedding and of each residual branch.
        soft_cap, gate_soft_cap: of the logits, and of the mLSTM's input and forget gates; 0 is none.
        conv_kernel: taps in s blocks; 0 is no convolution.
        ffn_activation: see `exgate.layers.ffn.ACTIVATIONS`.
        bias: in projections; the mLSTM's input and forget gates have theirs in any case.
        input_gate: of mLSTM, "exp" or "sigmoid".
        forget_gate: of sLSTM, "sigmoid" or "exp".
        norm_eps, cell_eps: of every norm, and of the mLSTM's denominator.
    Raises:
        ValueError: the pattern has other letters, or more than there are blocks.
    """

    vocab_size: int
    dim: int
    blocks: int
    heads: int
    qk_dim: int
    v_dim: int
    ffn_dim: int
    pattern: str = "m"
    tie_embeddings: bool = False
    dropout: float = 0.0
    soft_cap: float = 30.0
    gate_soft_cap: float = 15.0
    conv_kernel: int = 0
    ffn_activation: str = "silu"
    bias: bool = False
    input_gate: str = "exp"
    forget_gate: str = "sigmoid"
    norm_eps: float = 1e-6
    cell_eps: float = 1e-6

    def __post_init__(self) -> None:
        fields.check(self)
        layout(self.pattern, self.blocks)


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config, initialised as for the published training; on the meta device, its shapes."""
    where = {"device": "meta", "dtype": dtype}
    letters = layout(config.pattern, config.blocks)
    model = LanguageModel(
        config.vocab_size,
        Stack(_block(config, letter, block, where) for block, letter in enumerate(letters)),
        RMSNorm(config.dim, eps=config.norm_eps, **where),
        dim=config.dim,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        config=config,
        replayable="a" not in letters,
        **where,
    )
    return materialise(model, device)


def _block(config: Config, letter: str, block: int, where: dict) -> Stack:
    cell: nn.Module
    if letter == "m":
        cell = MLSTM7BLayer(
            config.dim, heads=config.heads, qk_dim=config.qk_dim, v_dim=config.v_dim,
            gate_soft_cap=config.gate_soft_cap, input_gate=config.input_gate, eps=config.cell_eps,
            norm_eps=config.norm_eps, bias=config.bias, blocks=config.blocks, **where,
        )  # fmt: skip
    elif letter == "a":
        cell = AttentionLayer(config.dim, heads=config.heads, bias=config.bias, blocks=config.blocks, **where)
    else:
        cell = SLSTMLayer(
            config.dim, heads=config.heads, conv_kernel=config.conv_kernel, forget_gate=config.forget_gate,
            norm_eps=config.norm_eps, norm_offset=False, block=block, blocks=config.blocks, **where,
        )  # fmt: skip
    ffn = FFN(
        config.dim, config.ffn_dim, activation=config.ffn_activation, bias=config.bias, blocks=config.blocks, **where
    )
    norms = (RMSNorm(config.dim, eps=config.norm_eps, **where) for _ in range(2))
    return Stack(Residual(norm, layer, dropout=config.dropout) for norm, layer in zip(norms, (cell, ffn), strict=True))


def xlstm_7b(vocab_size: int = 50304) -> Config:
    """xLSTM 7B as published: 6,865,424,896 parameters."""
    return Config(vocab_size=vocab_size, dim=4096, blocks=32, heads=8, qk_dim=2048, v_dim=4096, ffn_dim=10944)


def xlstm_7b_tiny(vocab_size: int = 257, pattern: str = "m") -> Config:
    """The same architecture with 923,552 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, blocks=4, heads=4, qk_dim=64, v_dim=128, ffn_dim=384, pattern=pattern)
