"""Language models of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517): any pattern of mLSTM and sLSTM blocks."""

import math
from dataclasses import dataclass

import torch

from exgate.layers.attention import AttentionLayer
from exgate.layers.ffn import FFN
from exgate.layers.mlstm import MLSTMLayer
from exgate.layers.norm import LayerNorm
from exgate.layers.slstm import SLSTMLayer
from exgate.layers.stack import Residual, Stack
from exgate.models import fields
from exgate.models.lm import LanguageModel, layout, materialise


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """What the residual blocks need to know, in a language model or elsewhere.

    Args:
        dim: D.
        blocks: residual blocks.
        heads: of every layer.
        pattern: m (mLSTM), s (sLSTM, with an FFN after it) or a (attention, with an FFN; not in the paper) for each
            block; a shorter pattern is repeated and cut. "ma" is a hybrid, whose state grows with time.
        dropout: of each residual branch.
        conv_kernel: taps in both cells; 0 leaves the convolution out.
        slstm_conv_kernel: taps in sLSTM, where they are others; None is conv_kernel.
        multiple: inner widths are rounded up to a multiple of it.
        proj_factor: inner width of mLSTM over dim.
        qkv_block: width of the blocks in the mLSTM's products for q, k, v.
        ffn_factor: inner width of the FFN over dim; 0 leaves the FFN out.
        ffn_activation: see `exgate.layers.ffn.ACTIVATIONS`; "gelu" is the exact one.
        bias: in the mLSTM's projections.
        input_gate: of mLSTM, "exp" or "sigmoid".
        forget_gate: of sLSTM, "sigmoid" or "exp".
        recurrent_init: of sLSTM, "zeros" or "uniform".
        norm_eps, cell_eps: of every norm, and of the mLSTM's denominator.
    Raises:
        ValueError: the pattern has other letters, or more than there are blocks.
    """

    dim: int
    blocks: int
    heads: int = 4
    pattern: str = "m"
    dropout: float = 0.0
    conv_kernel: int = 4
    slstm_conv_kernel: int | None = None
    multiple: int = 64
    proj_factor: float = 2.0
    qkv_block: int = 4
    ffn_factor: float = 1.3
    ffn_activation: str = "gelu"
    bias: bool = False
    input_gate: str = "exp"
    forget_gate: str = "sigmoid"
    recurrent_init: str = "zeros"
    norm_eps: float = 1e-5
    cell_eps: float = 1e-6

    def __post_init__(self) -> None:
        fields.check(self)
        layout(self.pattern, self.blocks)


@dataclass(frozen=True, kw_only=True)
class Config(Blocks):
    """What `build` needs to know: the blocks (`Blocks`), and what is around them.

    Args:
        vocab_size: V.
        dropout: of the embedding, too.
        tie_embeddings: the head is the embedding's weight.
        soft_cap: of the logits; 0 is none.
    """

    vocab_size: int
    tie_embeddings: bool = False
    soft_cap: float = 0.0


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config, initialised as published; on the meta device, its shapes."""
    # Built without memory first: each weight is then filled once, by `reset_parameters`, on the device where it stays.
    where = {"device": "meta", "dtype": dtype}
    model = LanguageModel(
        config.vocab_size,
        stack(config, **where),
        LayerNorm(config.dim, eps=config.norm_eps, offset=True, **where),
        dim=config.dim,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        config=config,
        replayable="a" not in layout(config.pattern, config.blocks),
        **where,
    )
    return materialise(model, device)


def stack(config: Blocks, *, device=None, dtype=None) -> Stack:
    """The residual blocks alone, D wide at both ends, without the norm that should follow them."""
    where = {"device": device, "dtype": dtype}
    letters = layout(config.pattern, config.blocks)
    return Stack(_block(config, letter, block, where) for block, letter in enumerate(letters))


def _block(config: Blocks, letter: str, block: int, where: dict) -> Stack:
    def branch(layer: torch.nn.Module) -> Residual:
        return Residual(LayerNorm(config.dim, eps=config.norm_eps, offset=True, **where), layer, dropout=config.dropout)

    shared = {"heads": config.heads, "norm_eps": config.norm_eps, **where}
    if letter == "m":
        cell = MLSTMLayer(
            config.dim, conv_kernel=config.conv_kernel, proj_factor=config.proj_factor, multiple=config.multiple,
            qkv_block=config.qkv_block, bias=config.bias, eps=config.cell_eps, input_gate=config.input_gate,
            blocks=config.blocks, **shared,
        )  # fmt: skip
        return Stack([branch(cell)])
    if letter == "a":
        cell = AttentionLayer(config.dim, heads=config.heads, blocks=config.blocks, **where)
    else:
        kernel = config.conv_kernel if config.slstm_conv_kernel is None else config.slstm_conv_kernel
        cell = SLSTMLayer(
            config.dim, conv_kernel=kernel, forget_gate=config.forget_gate, recurrent_init=config.recurrent_init,
            block=block, blocks=config.blocks, **shared,
        )  # fmt: skip
    if not config.ffn_factor:
        return Stack([branch(cell)])
    hidden = config.multiple * math.ceil(config.ffn_factor * config.dim / config.multiple)
    ffn = FFN(config.dim, hidden, activation=config.ffn_activation, blocks=config.blocks, **where)
    return Stack([branch(cell), branch(ffn)])


def xlstm_1_0_125m(vocab_size: int = 50304) -> Config:
    """xLSTM[1:0], 163,806,144 parameters."""
    return Config(vocab_size=vocab_size, dim=768, blocks=24, pattern="m" * 24)


def xlstm_7_1_125m(vocab_size: int = 50304) -> Config:
    """xLSTM[7:1], 163,690,928 parameters: sLSTM at 3 and 20 of 24."""
    return Config(vocab_size=vocab_size, dim=768, blocks=24, pattern=_places(24, (3, 20)))


def xlstm_1_0_350m(vocab_size: int = 50304) -> Config:
    """xLSTM[1:0], 409,290,112 parameters."""
    return Config(vocab_size=vocab_size, dim=1024, blocks=48, pattern="m" * 48)


def xlstm_7_1_350m(vocab_size: int = 50304) -> Config:
    """xLSTM[7:1], 408,436,048 parameters: sLSTM at 3, 5, 7, 40, 42, 44 of 48."""
    return Config(vocab_size=vocab_size, dim=1024, blocks=48, pattern=_places(48, (3, 5, 7, 40, 42, 44)))


def xlstm_1_1_tiny(vocab_size: int = 257) -> Config:
    """Four blocks, m and s in turn, 500,880 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, blocks=4, pattern="ms")


def xlstm_7_1_small(vocab_size: int = 257) -> Config:
    """Eight blocks with one sLSTM, 3,469,368 parameters: an hour on a few CPU cores."""
    return Config(vocab_size=vocab_size, dim=256, blocks=8, pattern="mmmsmmmm")


def _places(blocks: int, places: tuple[int, ...]) -> str:
    return "".join("s" if block in places else "m" for block in range(blocks))
