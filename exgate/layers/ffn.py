"""The position-wise feed-forward layer."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.init import small_, wang_
from exgate.layers.linear import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "sigmoid": F.sigmoid,
    "selu": F.selu,
    "tanh": F.tanh,
}


class FFN(nn.Module):
    r"""$y = W_\mathrm{down}(\mathrm{act}(W_g x) \odot W_u x)$ (Shazeer 2020, arXiv:2002.05202).

    Without the gate $y = W_\mathrm{down}\,\mathrm{act}(W_u x)$.

    Args:
        dim: width of input and output.
        hidden: width between.
        activation: one of `ACTIVATIONS`; "gelu" is the exact one (erf).
        gated: with the factor. `up.weight` is then (2 hidden, dim): the gate's rows first, then the factor's.
        bias: in both products.
        blocks: residual blocks in the model, for the size of the initial `down.weight`.
    Raises:
        ValueError: there is no such activation.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        activation: str = "gelu",
        gated: bool = True,
        bias: bool = False,
        blocks: int = 1,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"FFN: activation is {activation!r}; it should be one of {', '.join(ACTIVATIONS)}.")
        self.dim, self.hidden, self.activation, self.gated, self.blocks = dim, hidden, activation, gated, blocks
        self.up = Linear(dim, (1 + gated) * hidden, bias=bias, device=device, dtype=dtype)
        self.down = Linear(hidden, dim, bias=bias, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        small_(self.up.weight, self.dim)
        wang_(self.down.weight, self.dim, self.blocks)
        for linear in (self.up, self.down):
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(
        self, x: Tensor, state: tuple[()] | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """(B, T, dim) -> (B, T, dim). It remembers nothing: the state is ()."""
        act = ACTIVATIONS[self.activation]
        if not self.gated:
            return self.down(act(self.up(x))), ()
        gate, factor = self.up(x).chunk(2, -1)
        return self.down(act(gate) * factor), ()

    def extra_repr(self) -> str:
        return f"activation={self.activation}, gated={self.gated}"
