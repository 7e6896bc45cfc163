"""Models: one file per architecture (Config, build, presets), `lm` that they all build, `io` that saves and loads."""

from exgate.models import llama, lstm, mamba, rwkv4, xlstm, xlstm_7b
from exgate.models.lm import LanguageModel, parameter_groups

__all__ = ["LanguageModel", "llama", "lstm", "mamba", "parameter_groups", "rwkv4", "xlstm", "xlstm_7b"]
