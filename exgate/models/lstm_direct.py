"""Forecasting with an LSTM: it reads a window, and its last hidden state gives every step of the horizon at once."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from exgate.layers.linear import Linear
from exgate.layers.lstm import LSTMLayer
from exgate.layers.series import scale
from exgate.layers.stack import reset_parameters
from exgate.models import fields
from exgate.models.lm import materialise


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know.

    Args:
        horizon: H, of what is forecast; steps: L, of windows: any length can be read.
        channels: C, the series that are read together; 1: each alone, all by the same weights.
        hidden, layers: cells of each layer, and how many lie one on the other.
        dropout: of each layer's output.
    Raises:
        ValueError: there is no layer.
    """

    steps: int
    horizon: int
    channels: int = 1
    hidden: int = 128
    layers: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        fields.check(self)


class LSTMDirect(nn.Module):
    """y = W h_L + b with h of a stacked LSTM over the window, which is standardised, and y scaled back."""

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels] + [config.hidden] * (config.layers - 1)
        self.layers = nn.ModuleList(
            LSTMLayer(width, hidden=config.hidden, forget_bias=1.0, device=device, dtype=dtype) for width in widths
        )
        self.head = Linear(config.hidden, config.horizon * config.channels, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        for module in (*self.layers, self.head):
            reset_parameters(module)

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, L, C) without missing values -> forecasts (B, H, C).

        Raises:
            ValueError: the windows have other series than the model.
        """
        config = self.config
        if x.dim() != 3 or x.shape[2] != config.channels:
            raise ValueError(
                f"LSTMDirect: windows have shape {tuple(x.shape)}; they should be (B, L, C) with C={config.channels}."
            )
        own = scale(x)
        h = own.apply(x)
        for layer in self.layers:
            h = F.dropout(layer(h)[0], config.dropout, self.training)
        return own.invert(self.head(h[:, -1]).unflatten(-1, (config.horizon, config.channels)))


def build(config: Config, *, device=None, dtype=None) -> LSTMDirect:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    return materialise(LSTMDirect(config, device="meta", dtype=dtype), device)
