"""Models: one file per architecture (Config, build, presets), `lm` that they all build, `io` that saves and loads."""

from exgate.models import lstm, xlstm, xlstm_7b
from exgate.models.lm import LanguageModel, parameter_groups

__all__ = ["LanguageModel", "lstm", "parameter_groups", "xlstm", "xlstm_7b"]
