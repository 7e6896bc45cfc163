"""Sequence to sequence: an encoder reads the source, a decoder writes the target, with or without attention."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.additive import AdditiveAttention
from exgate.layers.init import small_
from exgate.layers.linear import Embedding, Linear
from exgate.layers.lstm import LSTMLayer
from exgate.layers.mlstm import MLSTMLayer
from exgate.layers.rnn import Projected
from exgate.layers.slstm import DenseSLSTMLayer
from exgate.layers.stack import Bidirectional, Stack, ragged, reset_parameters, reverse
from exgate.models import fields
from exgate.models.cross_entropy import cross_entropy
from exgate.models.lm import materialise
from exgate.models.lstm import Dropped
from exgate.ops.state import State

CELLS = ("lstm", "slstm", "mlstm")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        source_vocab, target_vocab: tokens on either side.
        dim: width of both embeddings, and of what the head reads.
        layers: of the encoder, and as many of the decoder.
        hidden: width of each layer (of each direction); None is dim.
        encoder, decoder: "lstm", "slstm" or "mlstm": the cells of either side.
        heads: of sLSTM and mLSTM; an LSTM has one.
        bidirectional: the encoder reads both ways (Bahdanau et al. 2015); else from left to right.
        attention: the decoder looks at all of the source; else it has the encoder's final state alone.
        reverse: the encoder reads the source from its end (Sutskever et al. 2014, section 3.3).
        dropout: of embeddings, of each layer's output, and of what the head reads.
        forget_bias: added to the initial bias of the LSTMs' forget gates.
    Raises:
        ValueError: there is no such cell, or less than one layer.
    """

    source_vocab: int
    target_vocab: int
    dim: int
    layers: int = 1
    hidden: int | None = None
    encoder: str = "lstm"
    decoder: str = "lstm"
    heads: int = 4
    bidirectional: bool = True
    attention: bool = True
    reverse: bool = False
    dropout: float = 0.0
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        fields.check(self)
        for side in ("encoder", "decoder"):
            if getattr(self, side) not in CELLS:
                raise ValueError(f"seq2seq: {side} is {getattr(self, side)!r}; it should be one of {', '.join(CELLS)}.")


class Decoding(NamedTuple):
    """Where the decoder stands: a state, so that rows can be selected (`exgate.ops.state.select`).

    Without attention, the first four are None.

    Args:
        values, keys: the encoder's outputs h (B, S, E) and U h (B, S, A).
        mask: (B, S), True in the source, False in its padding.
        weights: (B, S), where the last step looked; zeros before the first one.
        output: s_{i-1} (B, H), the decoder's last output.
        stack: the state of the decoder's layers.
    """

    values: Tensor | None
    keys: Tensor | None
    mask: Tensor | None
    weights: Tensor | None
    output: Tensor
    stack: State


class Seq2Seq(nn.Module):
    r"""Encoder-decoder (Sutskever et al. 2014, arXiv:1409.3215) with attention (Bahdanau et al. 2015, arXiv:1409.0473).

    $h = \mathrm{encoder}(E_x x)$; $c_i = \mathrm{attention}(s_{i-1}, h)$;
    $s_i = \mathrm{decoder}([E_y y_{i-1}; c_i], s_{i-1})$;
    logits of $y_i$: $W \tanh(R [s_i; c_i; E_y y_{i-1}])$ (the paper's deep output with tanh in place of maxout).
    Without attention there is no c.

    How the decoder starts: with an encoder of one direction and of the same cell, from its final state, layer by layer
    (for all cells: h and c; h, c, n and m; convolution and matrix memory). In all other cases states do not fit each
    other, so the decoder reads a first input of its own, tanh of a linear map of the encoder's final outputs (the last
    one forward and, with two directions, the first one backward), from the empty state.

    Rows of unequal length never read their padding, and get what they get alone.

    Args:
        config: what `build` was given.
    """

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        hidden = config.dim if config.hidden is None else config.hidden
        values = hidden * (1 + config.bidirectional)
        context = values if config.attention else 0

        def layer(kind: str, width: int, number: int) -> nn.Module:
            return Dropped(_cell(config, kind, width, hidden, number, where), config.dropout)

        def reader(width: int, number: int) -> nn.Module:
            if not config.bidirectional:
                return layer(config.encoder, width, number)
            return Bidirectional(layer(config.encoder, width, number), layer(config.encoder, width, number))

        self.source_embed = Embedding(config.source_vocab, config.dim, **where)
        self.target_embed = Embedding(config.target_vocab, config.dim, **where)
        widths = [config.dim] + [values] * (config.layers - 1)
        self.encoder = nn.ModuleList(reader(width, number) for number, width in enumerate(widths))
        widths = [config.dim + context] + [hidden] * (config.layers - 1)
        self.decoder = Stack(layer(config.decoder, width, number) for number, width in enumerate(widths))
        fits = config.encoder == config.decoder and not config.bidirectional
        self.bridge = None if fits else Linear(values, config.dim + context, **where)
        self.attention = AdditiveAttention(hidden, values, hidden, **where) if config.attention else None
        self.readout = Linear(hidden + context + config.dim, config.dim, **where)
        self.head = Linear(config.dim, config.target_vocab, bias=False, **where)

    def reset_parameters(self) -> None:
        """Start all weights anew: bridge, readout and head small and normal, all else in its own way.

        Embeddings are normal with deviation 1: with the small ones of language models, whose norms make up for it,
        attention takes several times as many steps to find its place.
        """
        for module in (self.source_embed, self.target_embed, *self.encoder, self.decoder, self.attention):
            if module is not None:
                reset_parameters(module)
        for linear in (self.bridge, self.readout, self.head):
            if linear is not None:
                small_(linear.weight, linear.in_features)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def forward(self, source: Tensor, lengths, tokens: Tensor) -> Tensor:
        """Teacher forcing: what the decoder says after each of the target's own tokens.

        Args:
            source: (B, S) whole numbers; rows padded at their end, with anything.
            lengths: (B,) of the source's rows, 1 to S; None: no row is padded.
            tokens: (B, T), the start token and the target but for its end; what follows a row's end changes nothing.
        Returns:
            logits (B, T, V) in float32 (or float64), of the token after each.
        Raises:
            ValueError: shapes or types disagree, or a length is not in 1 ... S.
        """
        x, _ = self.decode(tokens, self.encode(source, lengths))
        return self.logits(x)

    def loss(self, source: Tensor, lengths, tokens: Tensor, targets: Tensor, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy of `targets` (B, T), `tokens` one step ahead, in nats per target token; -100 is ignored.

        Args:
            source, lengths, tokens: as in `forward`.
            reduction: "mean", "sum", or "none": (B, T), 0 where ignored.
        """
        x, _ = self.decode(tokens, self.encode(source, lengths))
        return cross_entropy(x, self.head.weight, targets, reduction=reduction)

    def encode(self, source: Tensor, lengths=None) -> Decoding:
        """source (B, S), lengths (B,) -> where the decoder starts."""
        if source.dim() != 2 or source.shape[1] == 0 or source.is_floating_point():
            raise ValueError(
                f"Seq2Seq: source has shape {tuple(source.shape)} and type {source.dtype}; "
                "it should be (B, S) whole numbers with S at least 1."
            )
        rows, steps = source.shape
        sizes = torch.full((rows,), steps) if lengths is None else torch.as_tensor(lengths).cpu()
        if sizes.shape != (rows,):
            raise ValueError(f"Seq2Seq: lengths have shape {tuple(sizes.shape)}; they should be (B,) = ({rows},).")
        mask = torch.arange(steps, device=source.device) < sizes.to(source.device)[:, None]
        x = self._embed(self.source_embed, source.where(mask, 0))
        x = reverse(x, sizes) if self.config.reverse else x
        states = []
        for layer in self.encoder:
            if isinstance(layer, Bidirectional):
                x, state = layer(x, lengths=sizes)
            else:
                x, state = ragged(layer, x, sizes)
            states.append(state)
        final = x[torch.arange(rows, device=x.device), sizes.to(x.device) - 1]
        if self.config.bidirectional:
            half = x.shape[-1] // 2
            final = torch.cat([final[:, :half], x[:, 0, half:]], -1)
        stack = tuple(states)
        if self.bridge is not None:
            y, stack = self.decoder(torch.tanh(self.bridge(final))[:, None])
            final = y[:, 0]
        if self.attention is None:
            return Decoding(None, None, None, None, final, stack)
        values = reverse(x, sizes) if self.config.reverse else x  # in the order of the source as it was given
        return Decoding(values, self.attention.keys(values), mask, torch.zeros_like(values[..., 0]), final, stack)

    def step(self, tokens: Tensor, state: Decoding) -> tuple[Tensor, Decoding]:
        """One token (B,) of each row -> logits (B, V) of the next one, and the state after it."""
        x, state = self.decode(tokens[:, None], state)
        return self.logits(x[:, 0]), state

    def decode(self, tokens: Tensor, state: Decoding) -> tuple[Tensor, Decoding]:
        """tokens (B, T) after `state` -> what the head reads (B, T, D), and the state after the last of them."""
        if tokens.dim() != 2 or tokens.shape[1] == 0 or len(tokens) != len(state.output):
            raise ValueError(
                f"Seq2Seq: tokens have shape {tuple(tokens.shape)}; they should be (B, T) with T at least 1 and "
                f"B={len(state.output)}, as the source has."
            )
        embedded = self._embed(self.target_embed, tokens)
        if self.attention is None or state.values is None:
            y, stack = self.decoder(embedded, state.stack)
            state = state._replace(output=y[:, -1], stack=stack)
            parts = [y, embedded]
        else:
            outputs, contexts = [], []
            y, stack, weights = state.output[:, None], state.stack, None
            for step in embedded.split(1, 1):  # c_i needs s_{i-1}: one step after the other
                context, weights = self.attention(y, state.values, state.keys, mask=state.mask)
                y, stack = self.decoder(torch.cat([step, context], -1), stack)
                outputs.append(y)
                contexts.append(context)
            assert weights is not None
            state = state._replace(output=y[:, 0], stack=stack, weights=weights[:, 0])
            parts = [torch.cat(outputs, 1), torch.cat(contexts, 1), embedded]
        x = torch.tanh(self.readout(torch.cat(parts, -1)))
        return F.dropout(x, self.config.dropout, self.training), state

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) from `decode` -> logits (..., V) in float32 (or float64)."""
        logits = self.head(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _embed(self, embed: nn.Embedding, tokens: Tensor) -> Tensor:
        return F.dropout(embed(tokens), self.config.dropout, self.training)


def build(config: Config, *, device=None, dtype=None) -> Seq2Seq:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    return materialise(Seq2Seq(config, device="meta", dtype=dtype), device)


def _cell(config: Config, kind: str, width: int, hidden: int, number: int, where: dict[str, Any]) -> nn.Module:
    if kind == "lstm":
        return LSTMLayer(width, hidden=hidden, forget_bias=config.forget_bias, **where)
    if kind == "slstm":
        return DenseSLSTMLayer(width, hidden=hidden, heads=config.heads, block=number, blocks=config.layers, **where)
    cell = MLSTMLayer(hidden, heads=config.heads, blocks=config.layers, **where)
    return cell if width == hidden else Projected(nn.Linear(width, hidden, **where), cell)
