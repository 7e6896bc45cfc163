"""How layers are put together: residual branches, stacks, two directions, rows of unequal length."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from exgate.ops.state import State, join, select


class Residual(nn.Module):
    """A pre-norm residual branch: x + dropout(layer(norm(x))). Its state is the layer's.

    Args:
        norm: a function of x alone.
        layer: forward(x, state, *, reset) -> (y, state), with y as wide as x.
        dropout: probability of dropping an element of the branch.
    """

    def __init__(self, norm: nn.Module, layer: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.layer, self.dropout = norm, layer, dropout

    def reset_parameters(self) -> None:
        reset_parameters(self.norm)
        reset_parameters(self.layer)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, D), reset (B, T) -> (B, T, D) and the state."""
        y, state = self.layer(self.norm(x), state, reset=reset)
        return x + F.dropout(y, self.dropout, self.training), state

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}" if self.dropout else ""


class Stack(nn.Module):
    """Layers one after the other. The state is the tuple of theirs.

    Args:
        layers: forward(x, state, *, reset) -> (y, state) each.
        checkpoint: recompute each layer in the backward pass instead of keeping what it computed (may be set any time).
    """

    def __init__(self, layers: Iterable[nn.Module], *, checkpoint: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.checkpoint = checkpoint

    def reset_parameters(self) -> None:
        for layer in self.layers:
            reset_parameters(layer)

    def forward(self, x: Tensor, state: State = None, *, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """x (B, T, D), reset (B, T) -> (B, T, D) and the state.

        Raises:
            ValueError: the state has another number of entries than there are layers.
        """
        if state is None:
            state = (None,) * len(self.layers)
        elif len(state) != len(self.layers):
            raise ValueError(f"Stack: state has {len(state)} entries, but there are {len(self.layers)} layers.")
        states = []
        for layer, before in zip(self.layers, state, strict=True):
            if self.checkpoint and torch.is_grad_enabled():
                x, after = checkpoint(layer, x, before, reset=reset, use_reentrant=False)
            else:
                x, after = layer(x, before, reset=reset)
            states.append(after)
        return x, tuple(states)


class Bidirectional(nn.Module):
    """One layer reads forward, another one backward; their outputs side by side or summed.

    The state is (forward's, backward's): the first after the last step, the second after the first step. A state that
    is given starts each direction at its own first step. The output at a step depends on all steps: a sequence cannot
    be cut in two with the state passed on, as it can with every other layer.

    Args:
        forward, backward: two layers of the same kind.
        merge: "concat" (y is twice as wide) or "sum".
    Raises:
        ValueError: there is no such merge.
    """

    def __init__(self, forward: nn.Module, backward: nn.Module, *, merge: str = "concat") -> None:
        super().__init__()
        if merge not in ("concat", "sum"):
            raise ValueError(f"Bidirectional: merge is {merge!r}; it should be 'concat' or 'sum'.")
        self.directions = nn.ModuleList([forward, backward])
        self.merge = merge

    def reset_parameters(self) -> None:
        for layer in self.directions:
            reset_parameters(layer)

    def forward(
        self, x: Tensor, state: State = None, *, reset: Tensor | None = None, lengths=None
    ) -> tuple[Tensor, State]:
        """x (B, T, D), reset (B, T), lengths (B,) of rows padded at their end -> y and the two directions' states.

        With lengths, states are those at each row's own end (or beginning), and y is 0 in the padding.
        """
        states = (None, None) if state is None else state
        if len(states) != 2:
            raise ValueError(f"Bidirectional: state has {len(states)} entries; it should be (forward's, backward's).")
        there, back = self.directions
        if lengths is None:
            y, ahead = there(x, states[0], reset=reset)
            z, behind = back(reverse(x), states[1], reset=reverse_reset(reset))
        else:
            y, ahead = ragged(there, x, lengths, states[0], reset=reset)
            z, behind = ragged(back, reverse(x, lengths), lengths, states[1], reset=reverse_reset(reset, lengths))
        z = reverse(z, lengths)
        return torch.cat([y, z], -1) if self.merge == "concat" else y + z, (ahead, behind)

    def extra_repr(self) -> str:
        return f"merge={self.merge}"


def reverse(x: Tensor, lengths=None) -> Tensor:
    """x (B, T, ...) with time running backward; with lengths (B,), each row within its own: padding stays in place."""
    if lengths is None:
        return x.flip(1)
    lengths = torch.as_tensor(lengths, device=x.device)[:, None]
    time = torch.arange(x.shape[1], device=x.device)[None]
    order = torch.where(time < lengths, lengths - 1 - time, time)
    return x[torch.arange(len(x), device=x.device)[:, None], order]


def reverse_reset(reset: Tensor | None, lengths=None) -> Tensor | None:
    """`reset` (B, T) for the reversed sequence: a document's last step becomes its first.

    A document that begins at step t ends the one before it at t - 1: so the marks move one step back before time is
    turned round. The last step of a row begins the reversed one, and stays unmarked: a state that is given reaches it.
    """
    if reset is None:
        return None
    ends = F.pad(reset[:, 1:], (0, 1))
    if lengths is not None:
        time = torch.arange(reset.shape[1], device=reset.device)[None]
        ends = ends & (time < torch.as_tensor(lengths, device=reset.device)[:, None] - 1)
    return reverse(ends, lengths)


def ragged(
    layer: nn.Module, x: Tensor, lengths, state: State = None, *, reset: Tensor | None = None
) -> tuple[Tensor, State]:
    """Run a layer over rows of unequal length, without a step in the padding.

    The rows are sorted by length, and a row leaves the batch at its end: one call of the layer per distinct length, on
    what is left of the batch.

    Args:
        layer: forward(x, state, *, reset) -> (y, state).
        x: (B, T, D), rows padded at their end.
        lengths: (B,) whole numbers from 1 to T (on the CPU, if a tensor: their values are looked at).
        state, reset: as the layer's.
    Returns:
        y (B, T, ...), 0 in the padding, and each row's state after its own last step.
    Raises:
        ValueError: a length is not in 1 ... T, or there is not one for each row.
    """
    rows, steps = x.shape[:2]
    sizes = torch.as_tensor(lengths).cpu()
    if sizes.shape != (rows,) or not bool(((sizes >= 1) & (sizes <= steps)).all()):
        raise ValueError(
            f"ragged: lengths are {sizes.tolist()}; they should be {rows} whole numbers from 1 to T={steps}."
        )
    order = torch.argsort(sizes, descending=True, stable=True)
    sizes, order = sizes[order].tolist(), order.to(x.device)
    x = x[order]
    state = None if state is None else select(state, order)
    reset = None if reset is None else reset[order]
    begin, outputs, finals = 0, [], []
    while sizes:
        end, active = sizes[-1], len(sizes)
        part = None if reset is None else reset[:active, begin:end]
        y, state = layer(x[:active, begin:end], state, reset=part)
        outputs.append(F.pad(y, (0, 0, 0, 0, 0, rows - active)))
        sizes = [size for size in sizes if size > end]
        finals.append(select(state, torch.arange(len(sizes), active, device=x.device)))
        state = select(state, torch.arange(len(sizes), device=x.device))
        begin = end
    y = F.pad(torch.cat(outputs, 1), (0, 0, 0, steps - begin))
    back = torch.argsort(order)
    return y[back], select(join(finals[::-1]), back)


def reset_parameters(module: nn.Module) -> None:
    """Start a module's weights anew, where it has a method for it."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
