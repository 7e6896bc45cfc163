"""The LSTM family in PyTorch: the cells, the models, and what people do with them.

Three layers, each usable alone: `exgate.ops` (pure functions), `exgate.layers` (modules), `exgate.models` (language
models; `load` and `save`). Training, generation and evaluation are in `exgate.train`, `exgate.generate` and
`exgate.evaluate`, and on the command line as `exgate`.
"""

from exgate.layers import (
    FFN,
    LSTM,
    MLSTM,
    SLSTM,
    AttentionLayer,
    Bidirectional,
    CausalConv,
    ChannelMix,
    DenseSLSTMLayer,
    LSTMLayer,
    MambaLayer,
    MLSTM7BLayer,
    MLSTMLayer,
    Residual,
    RNNLayer,
    SLSTMLayer,
    Stack,
    TimeMix,
)
from exgate.models.io import build, load, save
from exgate.models.lm import LanguageModel
from exgate.ops import use_backend

__version__ = "0.1.0"

__all__ = [
    "FFN",
    "LSTM",
    "MLSTM",
    "SLSTM",
    "AttentionLayer",
    "Bidirectional",
    "CausalConv",
    "ChannelMix",
    "DenseSLSTMLayer",
    "LSTMLayer",
    "LanguageModel",
    "MLSTM7BLayer",
    "MLSTMLayer",
    "MambaLayer",
    "RNNLayer",
    "Residual",
    "SLSTMLayer",
    "Stack",
    "TimeMix",
    "build",
    "load",
    "save",
    "use_backend",
]
