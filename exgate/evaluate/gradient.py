r"""The vanishing gradient: how much of a loss at step T reaches the state d steps before, at initialisation.

The norm of $\partial L_T / \partial h_{T-d}$ (Hochreiter 1991; Bengio, Simard and Frasconi 1994), in float64, for a
random direction as loss. h is all that a layer carries on: h of an RNN; h and c of an LSTM; h, c and n of sLSTM; C and
n of mLSTM; of attention, whose state keeps all steps apart, the key and the value of step T - d.
"""

import torch
from torch import Tensor, nn

from exgate.layers.attention import AttentionLayer
from exgate.layers.elman import RNNLayer
from exgate.layers.lstm import LSTMLayer
from exgate.layers.mlstm import MLSTMLayer
from exgate.layers.slstm import SLSTMLayer
from exgate.ops import AttentionState
from exgate.ops.state import flatten

CARRIED = ("h", "c", "n", *AttentionState.GROWS)


def layers(dim: int = 64, heads: int = 4) -> dict[str, nn.Module]:
    """What is compared, by the names of the picture."""
    found = {
        "RNN": RNNLayer(dim),
        "LSTM": LSTMLayer(dim),  # as torch.nn.LSTM starts it, forget gates half open
        "LSTM, forget bias 1": LSTMLayer(dim, forget_bias=1.0),
        "LSTM, forget bias 3 to 6": LSTMLayer(dim, forget_bias=(3.0, 6.0)),  # over the cells
        "sLSTM": SLSTMLayer(dim, heads=heads, conv_kernel=0),
        "mLSTM": MLSTMLayer(dim, heads=heads),
        "attention": AttentionLayer(dim, heads=heads),
    }
    return {name: layer.double() for name, layer in found.items()}


def norms(layer: nn.Module, dim: int, *, steps: int = 100, batch: int = 8, seed: int = 0) -> list[float]:
    """The norm of the gradient that reaches the state d = 1 ... steps steps back, divided by that at d = 1.

    Args:
        layer: forward(x, state) -> (y, state), in float64, `dim` wide.
        steps, batch: rows of normal noise, one step longer than `steps`.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, steps + 1, dim, dtype=torch.float64, generator=generator)
    state, carried = None, []
    for t in range(steps):
        _, state = layer(x[:, t : t + 1], state)
        carried.append(_carried(state))
    y, _ = layer(x[:, steps:], state)
    loss = (y * torch.randn(y.shape, dtype=torch.float64, generator=generator)).sum()
    tensors = [tensor for step in carried for tensor, _ in step]
    gradients = iter(torch.autograd.grad(loss, tensors, allow_unused=True))
    reached = []
    for step in carried:
        parts = [
            gradient * scale for (_, scale), gradient in zip(step, gradients, strict=False) if gradient is not None
        ]
        reached.append(torch.stack([part.square().sum() for part in parts]).sum().sqrt().item())
    reached.reverse()
    return [value / reached[0] for value in reached]


def curves(*, steps: int = 100, dim: int = 64, seed: int = 0) -> dict[str, list[float]]:
    """`norms` of each of `layers`, freshly initialised."""
    torch.manual_seed(seed)
    return {name: norms(layer, dim, steps=steps, seed=seed) for name, layer in layers(dim).items()}


def _carried(state) -> list[tuple[Tensor, Tensor | float]]:
    """The tensors of a state that are carried on, each with the factor of its gradient.

    c and n are stored divided by exp(m): the gradient of what they stand for is that of them times exp(-m). Of a cache,
    which holds the steps before as well, the newest entry counts.
    """
    named, found = flatten(state), []
    for name, tensor in named.items():
        head, _, leaf = name.rpartition(".")
        if leaf not in CARRIED:
            continue
        m = named.get(f"{head}.m" if head else "m")
        if leaf in AttentionState.GROWS:
            newest = torch.zeros(tensor.shape[1], dtype=tensor.dtype)
            newest[-1] = 1.0
            found.append((tensor, newest[:, None, None]))
        elif m is None or leaf == "h":
            found.append((tensor, 1.0))
        else:
            found.append((tensor, torch.exp(-m.detach()).reshape(m.shape + (1,) * (tensor.dim() - m.dim()))))
    return found
