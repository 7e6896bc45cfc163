"""exgate's forecaster as a model of neuralforecast: `NeuralForecast(models=[PatchXLSTM(...)], freq="h")`."""

# neuralforecast is not in the environment of the type checker.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from exgate.forecast.network import Network
from exgate.models.patch_xlstm import Covariates

try:
    from neuralforecast.common._base_model import MULTIQUANTILE_LOSSES, BaseModel
    from neuralforecast.core import MODEL_FILENAME_DICT
    from neuralforecast.losses.pytorch import MAE
except ImportError as error:
    raise ImportError(
        "exgate: exgate.forecast.adapters.neuralforecast needs the package 'neuralforecast'. "
        "Install it: pip install neuralforecast"
    ) from error

POINT = MAE()


class PatchXLSTM(BaseModel):
    """`exgate.models.patch_xlstm`, trained and asked by neuralforecast.

    >>> nf = NeuralForecast(models=[PatchXLSTM(h=24, input_size=96)], freq="h")        # doctest: +SKIP
    >>> nf.fit(df)                                                                     # doctest: +SKIP

    What `available_mask` says is missing is missing to the network, and so is the padding of short series
    (`start_padding_enabled`). Quantiles never cross. For state, conformal intervals and horizons decided later there is
    `exgate.forecast.Forecaster`.

    Args:
        h, input_size: steps to forecast, and that are read; less than 1: three times h.
        patch: steps that are read and forecast at a time, more or fewer than h.
        memory, leads: of a linear forecast to which the blocks add; here it is learnt with all else, and not solved
            before. None of these three: as `Forecaster` has them.
        dim, blocks, heads, pattern, dropout, conv_kernel, hidden: see `exgate.models.patch_xlstm.Config`.
        loss: of neuralforecast: one that scores one forecast (MAE, MSE, QuantileLoss, ...), MQLoss or HuberMQLoss.
        scaler_type: of the windows, and so of the loss; the network standardises by itself.
        valid_loss, max_steps, learning_rate, num_lr_decays, val_check_steps, batch_size, valid_batch_size,
            windows_batch_size, inference_windows_batch_size, start_padding_enabled: as in every model of
            neuralforecast.
        trainer_kwargs: other arguments of its models (futr_exog_list, alias, ...) and of Lightning's trainer.
    Raises:
        ValueError: the loss asks for more than one forecast and is not of quantiles.
    """

    EXOGENOUS_CAT = True

    def __init__(
        self,
        h: int,
        input_size: int = -1,
        *,
        patch: int | None = None,
        memory: int | None = None,
        leads: int | None = None,
        dim: int = 64,
        blocks: int = 2,
        heads: int = 4,
        pattern: str = "s",
        dropout: float = 0.0,
        conv_kernel: int = 4,
        hidden: int | None = None,
        loss: Any = POINT,
        valid_loss: Any = None,
        max_steps: int = 1000,
        learning_rate: float = 1e-3,
        num_lr_decays: int = 3,
        val_check_steps: int = 100,
        batch_size: int = 32,
        valid_batch_size: int | None = None,
        windows_batch_size: int = 128,
        inference_windows_batch_size: int = 1024,
        start_padding_enabled: bool = False,
        scaler_type: str = "standard",
        **trainer_kwargs: Any,
    ) -> None:
        super().__init__(
            h=h, input_size=input_size, loss=loss, valid_loss=valid_loss, max_steps=max_steps,
            learning_rate=learning_rate, num_lr_decays=num_lr_decays, val_check_steps=val_check_steps,
            batch_size=batch_size, valid_batch_size=valid_batch_size, windows_batch_size=windows_batch_size,
            inference_windows_batch_size=inference_windows_batch_size, start_padding_enabled=start_padding_enabled,
            scaler_type=scaler_type, **trainer_kwargs,
        )  # fmt: skip
        several = isinstance(loss, MULTIQUANTILE_LOSSES)
        if not several and loss.outputsize_multiplier != 1:
            raise ValueError(
                f"PatchXLSTM: {type(loss).__name__} asks for {loss.outputsize_multiplier} numbers of each step; the "
                "network forecasts one number or quantiles. Take MAE(), MQLoss(level=[80, 90]) or another of these."
            )
        levels = [float(level) for level in loss.quantiles] if several else [0.5]
        rising = sorted(levels)
        self.places = [rising.index(level) for level in levels]
        given = {"patch": patch, "memory": memory, "leads": leads}
        options = {
            "dim": dim, "blocks": blocks, "heads": heads, "pattern": pattern, "dropout": dropout,
            "conv_kernel": conv_kernel, "hidden": hidden,
            **{name: value for name, value in given.items() if value is not None},
        }  # fmt: skip
        sizes = {"past": self.hist_exog_size, "future": self.futr_exog_size, "static": self.stat_exog_size}
        network = Network("patch_xlstm", quantiles=rising, intervals=None, options=options)
        self.network: Any = network.build(self.input_size, h, sizes)

    def forward(self, windows_batch: dict[str, Any]) -> Tensor:
        """Windows of neuralforecast, `insample_y` (B, L, 1) and what goes with it -> (B, h, outputs of the loss)."""
        known = Covariates(windows_batch["hist_exog"], windows_batch["futr_exog"], windows_batch["stat_exog"])
        x = windows_batch["insample_y"].masked_fill(windows_batch["insample_mask"] == 0, math.nan)
        y, _ = self.network.forecast(x, self.h, None, known)
        return y[:, :, 0, self.places]


# By the name of its class `NeuralForecast.save` and `load` find a model.
MODEL_FILENAME_DICT.setdefault(PatchXLSTM.__name__.lower(), PatchXLSTM)
