"""The manners of `torch.nn.LSTM` around layers: what `exgate.layers.rnn` has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from exgate.layers.stack import Bidirectional, ragged, reset_parameters
from exgate.ops.state import State


class Shell(nn.Module, ABC):
    """Layers of one kind, one or two directions each, called as `torch.nn.LSTM` is. The kinds below say what is inside.

    A kind hands over `layer(width, number)`, which makes one direction of one layer, and defines `_leaves(state)`, the
    tensors (B, ...) of a layer's state as the user sees them, and `_state(leaves)`, the way back.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        layer: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1 or num_layers < 1:
            raise ValueError(
                f"{self.name}: input_size={input_size}, hidden_size={hidden_size} and num_layers={num_layers} "
                "should all be at least 1."
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"{self.name}: dropout is {dropout}; it should be a probability, 0 to 1.")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        widths = [input_size] + [hidden_size * (1 + bidirectional)] * (num_layers - 1)
        self.layers = nn.ModuleList(
            Bidirectional(layer(width, number), layer(width, number)) if bidirectional else layer(width, number)
            for number, width in enumerate(widths)
        )

    @abstractmethod
    def _leaves(self, state: State) -> list[Tensor]: ...

    @abstractmethod
    def _state(self, leaves: list[Tensor]) -> State: ...

    @property
    def name(self) -> str:
        return type(self).__name__

    def reset_parameters(self) -> None:
        for layer in self.layers:
            reset_parameters(layer)

    def flatten_parameters(self) -> None:
        """Nothing to do; here because code written for `torch.nn.LSTM` calls it."""

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, ...] | None = None, *, reset: Tensor | None = None
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """input (T, B, input_size), with `batch_first` (B, T, input_size), unbatched (T, input_size), or packed.

        Args:
            input: as above.
            hx: the state to start from, as it is returned; None starts empty.
            reset: True where a new document begins; as input without its last dimension. Not with packed input.
        Returns:
            output: laid out as the input, hidden_size wide (twice that if bidirectional), and the state: tensors
            (num_layers * directions, B, ...) in float32, without B for unbatched input.
        Raises:
            ValueError: the input, the state or reset has the wrong shape.
        """
        if isinstance(hx, Tensor):
            raise ValueError(f"{self.name}: hx is a tensor; it should be a tuple of them, the state as it is returned.")
        if isinstance(input, PackedSequence):
            if reset is not None:
                raise ValueError(f"{self.name}: reset cannot go with a PackedSequence: its rows are one document each.")
            x, lengths = pad_packed_sequence(input, batch_first=True)
            self._check(x, 3)
            y, state = self._run(x, self._states(hx, len(x)), None, lengths)
            return _packed(y, lengths, input), state
        self._check(input, 2 if input.dim() == 2 else 3)
        x = input
        if input.dim() == 2:
            x, hx = x[None], None if hx is None else tuple(tensor[:, None] for tensor in hx)
            reset = None if reset is None else reset[None]
        elif not self.batch_first:
            x, reset = x.transpose(0, 1), None if reset is None else reset.transpose(0, 1)
        y, state = self._run(x, self._states(hx, len(x)), reset, None)
        if input.dim() == 2:
            return y[0], tuple(tensor[:, 0] for tensor in state)
        return y if self.batch_first else y.transpose(0, 1), state

    def _run(self, x: Tensor, states: list[State], reset: Tensor | None, lengths: Tensor | None):
        after: list[State] = []
        for number, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            if number and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            if lengths is None:
                x, state = layer(x, state, reset=reset)
            elif self.bidirectional:
                x, state = layer(x, state, lengths=lengths)
            else:
                x, state = ragged(layer, x, lengths, state)
            after.extend(state if self.bidirectional else (state,))
        leaves = [self._leaves(state) for state in after]
        return x, tuple(torch.stack(same) for same in zip(*leaves, strict=True))

    def _states(self, hx: tuple[Tensor, ...] | None, rows: int) -> list[State]:
        """hx -> one entry per layer; a pair if bidirectional."""
        if hx is None:
            return [None] * self.num_layers
        count = self.num_layers * (1 + self.bidirectional)
        for tensor in hx:
            if tensor.dim() < 3 or tensor.shape[:2] != (count, rows):
                raise ValueError(
                    f"{self.name}: hx has a tensor of shape {tuple(tensor.shape)}; it should begin with "
                    f"(num_layers * directions, B) = ({count}, {rows})."
                )
        states = [self._state([tensor[place] for tensor in hx]) for place in range(count)]
        return list(zip(states[::2], states[1::2], strict=True)) if self.bidirectional else states

    def _check(self, x: Tensor, rank: int) -> None:
        if x.dim() != rank or x.shape[-1] != self.input_size:
            batched = "(B, T, input_size)" if self.batch_first else "(T, B, input_size)"
            raise ValueError(
                f"{self.name}: input has shape {tuple(x.shape)}; it should be {batched}, or (T, input_size) unbatched, "
                f"with input_size={self.input_size}."
            )

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


def _packed(y: Tensor, lengths: Tensor, like: PackedSequence) -> PackedSequence:
    """y (B, T, ...) in the caller's order -> packed as `like`."""
    if like.sorted_indices is not None:
        y, lengths = y[like.sorted_indices], lengths[like.sorted_indices.cpu()]
    data = pack_padded_sequence(y, lengths, batch_first=True).data
    return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)
