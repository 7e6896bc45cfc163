"""LSTM, sLSTM and mLSTM with the manners of `torch.nn.LSTM`: thin shells over the layers."""

from typing import Any

from torch import Tensor, nn

from exgate.layers.lstm import LSTMLayer
from exgate.layers.mlstm import MLSTMLayer
from exgate.layers.shell import Shell
from exgate.layers.slstm import DenseSLSTMLayer
from exgate.layers.stack import reset_parameters
from exgate.ops import ConvState, LSTMState, MLSTMState, SLSTMState
from exgate.ops.state import State, flatten


class LSTM(Shell):
    """LSTM in place of `torch.nn.LSTM`: same arguments, same results, loads its state dict (see `LSTMLayer`).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.LSTM`.
        heads: recurrent weights are block-diagonal with a block per head; 1 is the classical LSTM.
        peepholes: gates see the cell.

    The state is (h, c), (num_layers * directions, B, hidden_size) each.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
        *,
        heads: int = 1,
        peepholes: bool = False,
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}

        def layer(width: int, number: int) -> nn.Module:
            return LSTMLayer(width, hidden=hidden_size, heads=heads, peepholes=peepholes, bias=bias, **where)

        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, layer)
        self.heads = heads
        self.register_load_state_dict_pre_hook(_from_torch)

    def _leaves(self, state: LSTMState) -> list[Tensor]:
        return [tensor.flatten(1) for tensor in state]

    def _state(self, leaves: list[Tensor]) -> LSTMState:
        return LSTMState(*_split_heads(self, leaves, 2, self.heads))


class SLSTM(Shell):
    """sLSTM with the manners of `torch.nn.LSTM` (see `DenseSLSTMLayer`; arXiv:2405.04517, section 2.2).

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.LSTM`.
        heads: memory mixing is inside each head; they divide hidden_size.
        forget_gate: "sigmoid" (as published) or "exp".

    The state is (h, c, n, m), (num_layers * directions, B, hidden_size) each. To start empty by
    hand: zeros, and m = -inf.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
        *,
        heads: int = 4,
        forget_gate: str = "sigmoid",
    ) -> None:
        options: dict[str, Any] = {"heads": heads, "forget_gate": forget_gate, "bias": bias}

        def layer(width: int, number: int) -> nn.Module:
            where = {"block": number, "blocks": num_layers, "device": device, "dtype": dtype}
            return DenseSLSTMLayer(width, hidden=hidden_size, **where, **options)

        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, layer)
        self.heads = heads

    def _leaves(self, state: SLSTMState) -> list[Tensor]:
        return [tensor.flatten(1) for tensor in state]

    def _state(self, leaves: list[Tensor]) -> SLSTMState:
        return SLSTMState(*_split_heads(self, leaves, 4, self.heads))


class MLSTM(Shell):
    """mLSTM with the manners of `torch.nn.LSTM` (see `MLSTMLayer`; arXiv:2405.04517, section 2.3).

    A layer whose input is not hidden_size wide begins with a linear map to that width. There is no norm and no residual
    connection around the layers: add them outside for a deep model.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.LSTM`.
        heads, conv_kernel, proj_factor, qkv_block, input_gate, chunk_size: as in `MLSTMLayer`.

    The state is (x, c, n, m): the convolution's last inputs (N, B, conv_kernel - 1, inner), the matrix memory
    (N, B, heads, K, K), its normaliser (N, B, heads, K) and the stabiliser (N, B, heads), where N is
    num_layers * directions, inner is hidden_size * proj_factor rounded up to a multiple of 64, and K is inner / heads.
    With conv_kernel 0 it is (c, n, m).
    Zeros are the empty state.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device=None,
        dtype=None,
        *,
        heads: int = 4,
        conv_kernel: int = 4,
        proj_factor: float = 2.0,
        qkv_block: int = 4,
        input_gate: str = "exp",
        chunk_size: int | None = None,
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        options: dict[str, Any] = {"heads": heads, "conv_kernel": conv_kernel, "proj_factor": proj_factor, "bias": bias}
        options |= {"qkv_block": qkv_block, "input_gate": input_gate, "chunk_size": chunk_size, "blocks": num_layers}

        def layer(width: int, number: int) -> nn.Module:
            cell = MLSTMLayer(hidden_size, **options, **where)
            if width == hidden_size:
                return cell
            return Projected(nn.Linear(width, hidden_size, bias=bias, **where), cell)

        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, layer)
        self.conv_kernel = conv_kernel

    def _leaves(self, state: State) -> list[Tensor]:
        return list(flatten(state).values())

    def _state(self, leaves: list[Tensor]) -> State:
        names = ("x", "c", "n", "m") if self.conv_kernel else ("c", "n", "m")
        if len(leaves) != len(names):
            raise ValueError(f"MLSTM: hx has {len(leaves)} tensors; it should be ({', '.join(names)}).")
        cell = MLSTMState(*leaves[-3:])
        return (ConvState(leaves[0]), cell) if self.conv_kernel else cell


class Projected(nn.Module):
    """A linear map, then a layer with the state."""

    def __init__(self, proj: nn.Linear, layer: nn.Module) -> None:
        super().__init__()
        self.proj, self.layer = proj, layer

    def reset_parameters(self) -> None:
        self.proj.reset_parameters()
        reset_parameters(self.layer)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, width), reset (B, T) -> (B, T, hidden_size) and the layer's state."""
        return self.layer(self.proj(x), state, reset=reset)


def _split_heads(module: Shell, leaves: list[Tensor], count: int, heads: int) -> list[Tensor]:
    if len(leaves) != count or any(leaf.shape[1:] != (module.hidden_size,) for leaf in leaves):
        shapes = ", ".join(str(tuple(leaf.shape[1:])) for leaf in leaves)
        raise ValueError(
            f"{module.name}: hx has {len(leaves)} tensors that end in {shapes}; "
            f"it should be {count} that end in hidden_size={module.hidden_size}."
        )
    return [leaf.unflatten(1, (heads, -1)) for leaf in leaves]


def _from_torch(module: LSTM, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename the entries of a `torch.nn.LSTM` state dict, if it is one: its two biases are added."""
    for number in range(module.num_layers):
        for side, direction in enumerate(("", "_reverse")[: 1 + module.bidirectional]):
            end = f"_l{number}{direction}"
            if prefix + "weight_hh" + end not in weights:
                continue
            if module.heads != 1:
                raise ValueError(
                    f"LSTM: the weights are those of torch.nn.LSTM, which has one head, but heads={module.heads}. "
                    "Set heads=1."
                )
            name = f"{prefix}layers.{number}." + (f"directions.{side}." if module.bidirectional else "")
            recurrent = weights.pop(prefix + "weight_hh" + end)
            weights[name + "input.weight"] = weights.pop(prefix + "weight_ih" + end)
            weights[name + "recurrent"] = recurrent.unflatten(0, (4, -1))[:, None]
            if prefix + "bias_ih" + end in weights:
                biases = (weights.pop(prefix + f"bias_{half}" + end) for half in ("ih", "hh"))
                weights[name + "input.bias"] = sum(biases)  # pyright: ignore[reportArgumentType]
