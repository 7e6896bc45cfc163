"""Forecasting series of data frames: `Forecaster`, its windows and training, tests on the past, saving."""

from exgate.forecast.forecaster import Forecaster

__all__ = ["Forecaster"]
