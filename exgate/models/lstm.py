"""LSTM language models: the baseline, classical, with residual branches, or as blocks with an FFN; and vanilla RNNs."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.elman import RNNLayer
from exgate.layers.ffn import FFN
from exgate.layers.lstm import LSTMLayer
from exgate.layers.norm import LayerNorm
from exgate.layers.stack import Residual, Stack, reset_parameters
from exgate.models import fields
from exgate.models.lm import LanguageModel, materialise
from exgate.ops.state import State


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        vocab_size, dim: V and the embedding's width.
        layers: recurrent layers.
        cell: "lstm", or "rnn" (Elman 1990), which has neither peepholes nor a forget gate.
        hidden: cells per layer; None is dim.
        heads: the recurrent weights are block-diagonal with a block per head; 1 is the classical LSTM.
        peepholes: gates see the cell.
        residual: each layer is a pre-norm residual branch (hidden has to be dim); else the classical stack, where the
            first layer reads the embedding and each other one the layer before it.
        ffn_dim: inner width of a SwiGLU after each layer, a residual branch too: at 8/3 dim the "LSTM (block)" of the
            xLSTM paper, a Llama whose attention is an LSTM. 0 leaves it out.
        tie_embeddings: the head is the embedding's weight (hidden has to be dim).
        dropout: of the embedding and of each layer's output.
        soft_cap: of the logits; 0 is none.
        bias: in the layers.
        forget_bias: added to the forget gates' initial bias (Jozefowicz et al. 2015): a number, or (low, high), evenly
            spaced over the cells.
        norm_eps: of every norm.
    Raises:
        ValueError: residual branches with hidden other than dim, an FFN without them, peepholes of an RNN, less than
            one layer, or no such cell.
    """

    vocab_size: int
    dim: int
    layers: int
    cell: str = "lstm"
    hidden: int | None = None
    heads: int = 1
    peepholes: bool = False
    residual: bool = True
    ffn_dim: int = 0
    tie_embeddings: bool = False
    dropout: float = 0.0
    soft_cap: float = 0.0
    bias: bool = True
    forget_bias: float | tuple[float, float] = 1.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        fields.check(self)
        if self.residual and self.hidden not in (None, self.dim):
            raise ValueError(
                f"lstm: residual branches need hidden={self.hidden} to be dim={self.dim}. "
                "Set residual=False, or leave hidden out."
            )
        if self.cell not in ("lstm", "rnn"):
            raise ValueError(f"lstm: cell is {self.cell!r}; it should be 'lstm' or 'rnn'.")
        if self.cell == "rnn" and self.peepholes:
            raise ValueError("lstm: cell='rnn' has no gates, but peepholes=True. Set one of them otherwise.")
        if self.ffn_dim and not self.residual:
            raise ValueError(f"lstm: ffn_dim={self.ffn_dim} needs residual branches. Set residual=True, or ffn_dim=0.")


class Dropped(nn.Module):
    """A layer with dropout after it: one of a classical stack."""

    def __init__(self, layer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.layer, self.dropout = layer, dropout

    def reset_parameters(self) -> None:
        reset_parameters(self.layer)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, D), reset (B, T) -> the layer's output and state."""
        y, state = self.layer(x, state, reset=reset)
        return F.dropout(y, self.dropout, self.training), state


def build(config: Config, *, device=None, dtype=None) -> LanguageModel:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    where = {"device": "meta", "dtype": dtype}
    hidden = config.dim if config.hidden is None else config.hidden
    model = LanguageModel(
        config.vocab_size,
        Stack(_block(config, hidden if number else config.dim, hidden, where) for number in range(config.layers)),
        LayerNorm(hidden, eps=config.norm_eps, **where),
        dim=config.dim,
        width=hidden,
        tie_embeddings=config.tie_embeddings,
        soft_cap=config.soft_cap,
        dropout=config.dropout,
        config=config,
        **where,
    )
    return materialise(model, device)


def _block(config: Config, width: int, hidden: int, where: dict) -> Stack:
    shared = {"hidden": hidden, "heads": config.heads, "bias": config.bias, **where}
    if config.cell == "rnn":
        cell = RNNLayer(width, **shared)
    else:
        cell = LSTMLayer(width, peepholes=config.peepholes, forget_bias=config.forget_bias, **shared)
    if not config.residual:
        return Stack([Dropped(cell, config.dropout)])
    layers: list[nn.Module] = [cell]
    if config.ffn_dim:
        layers.append(FFN(config.dim, config.ffn_dim, activation="silu", blocks=2 * config.layers, **where))
    return Stack(
        Residual(LayerNorm(config.dim, eps=config.norm_eps, **where), one, dropout=config.dropout) for one in layers
    )


def lstm_tiny(vocab_size: int = 257) -> Config:
    """Four residual layers, 592,768 parameters: minutes on two CPU cores."""
    return Config(vocab_size=vocab_size, dim=128, layers=4)
