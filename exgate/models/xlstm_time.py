"""xLSTMTime (Alharthi and Mahmood 2024, arXiv:2407.10240): DLinear's forecast, refined by a stack of xLSTM blocks."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from exgate.layers.norm import LayerNorm
from exgate.layers.series import Decomposed, scale
from exgate.layers.stack import reset_parameters
from exgate.models import fields, xlstm
from exgate.models.lm import layout, materialise

AXES = ("variates", "time")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `build` needs to know. What is published is the default.

    Args:
        steps: L, of the window that is read; horizon: H, of what is forecast; channels: C, the series of a window.
        axis: what the recurrence runs over: "variates" (one step per series, as the published code has it) or "time"
            (one step per step of the horizon).
        pattern: s (sLSTM) or m (mLSTM) for each block; a shorter pattern is repeated and cut. The paper says sLSTM for
            small data sets (ETT), mLSTM for large ones (electricity, traffic, weather).
        dim, blocks, heads, conv_kernel, dropout: of the blocks, as in `exgate.models.xlstm`.
        kernel: of the moving average.
        normalize: each window is standardised, and the forecast scaled back.
        batch_norm: over batch and features, before the blocks, for each step of the recurrence.
    Raises:
        ValueError: there is no such axis, or the pattern has other letters.
    """

    steps: int
    horizon: int
    channels: int
    axis: str = "variates"
    pattern: str = "s"
    dim: int = 256
    blocks: int = 3
    heads: int = 4
    conv_kernel: int = 4
    dropout: float = 0.0
    kernel: int = 25
    normalize: bool = True
    batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise ValueError(f"xlstm_time: axis is {self.axis!r}; it should be 'variates' or 'time'.")
        fields.check(self)
        layout(self.pattern, self.blocks, "ms")


class XLSTMTime(nn.Module):
    r"""Windows of C series in, forecasts out: $y = \mathrm{down}(\mathrm{blocks}(\mathrm{up}(\mathrm{DLinear}(x))))$.

    x is standardised with each window's own mean and deviation, and y scaled back. DLinear's forecast (B, H, C) is what
    the blocks read, along one of two axes:
    - "variates": a sequence of C steps, each the forecast of one series (H numbers). Series are mixed in their order,
      each with those before it; with C = 1 the recurrence has one step. As the published code has it.
    - "time": a sequence of H steps, each the forecasts of all series (C numbers).

    What differs from the paper's text, which follows its code where they disagree: the text calls the scale instance
    normalisation and its figure has a batch norm before the blocks, whose call the code has commented out
    (`batch_norm`); neither names the axis. The code's blocks are sLSTM blocks with a feed-forward part by default; a
    user of the published `xlstm` package in their place gets mLSTM (`pattern="m"`). There is no residual path around
    the blocks, so that what they forget of DLinear's forecast is lost.
    """

    def __init__(self, config: Config, *, device=None, dtype=None) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        over_variates = config.axis == "variates"
        width, length = (config.horizon, config.channels) if over_variates else (config.channels, config.horizon)
        self.linear = Decomposed(config.steps, config.horizon, config.kernel, **where)
        self.up = nn.Linear(width, config.dim, **where)
        self.batch_norm = nn.BatchNorm1d(length, **where) if config.batch_norm else None
        blocks = xlstm.Blocks(
            dim=config.dim, blocks=config.blocks, heads=config.heads, pattern=config.pattern, dropout=config.dropout,
            conv_kernel=config.conv_kernel,
        )  # fmt: skip
        self.stack = xlstm.stack(blocks, **where)
        self.norm = LayerNorm(config.dim, eps=blocks.norm_eps, offset=True, **where)
        self.down = nn.Linear(config.dim, width, **where)

    def reset_parameters(self) -> None:
        for module in (self.linear, self.up, self.batch_norm, self.stack, self.norm, self.down):
            if module is not None:
                reset_parameters(module)

    def forward(self, x: Tensor) -> Tensor:
        """Windows (B, L, C) without missing values -> forecasts (B, H, C) in their units.

        Raises:
            ValueError: the windows have another shape than the model.
        """
        config = self.config
        if x.dim() != 3 or x.shape[1:] != (config.steps, config.channels):
            raise ValueError(
                f"XLSTMTime: windows have shape {tuple(x.shape)}; they should be (B, L, C) = "
                f"(B, {config.steps}, {config.channels})."
            )
        own = scale(x) if config.normalize else None
        y = self.linear(x if own is None else own.apply(x))
        y = self._refined(y.mT).mT if config.axis == "variates" else self._refined(y)
        return y if own is None else own.invert(y)

    def _refined(self, y: Tensor) -> Tensor:
        """(B, steps of the recurrence, features) -> the same shape."""
        y = self.up(y)
        if self.batch_norm is not None:
            y = self.batch_norm(y)
        y, _ = self.stack(y)
        return self.down(self.norm(y))


def build(config: Config, *, device=None, dtype=None) -> XLSTMTime:
    """The model of a config with its initial weights; on the meta device, its shapes."""
    return materialise(XLSTMTime(config, device="meta", dtype=dtype), device)
