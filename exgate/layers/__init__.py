"""Layers: modules with parameters, forward(x, state=None, *, reset=None) -> (y, state), shapes (B, T, D)."""

from exgate.layers.additive import AdditiveAttention
from exgate.layers.conv import CausalConv
from exgate.layers.ffn import FFN
from exgate.layers.linear import HeadwiseLinear
from exgate.layers.lstm import LSTMLayer
from exgate.layers.mlstm import MLSTM7BLayer, MLSTMLayer
from exgate.layers.norm import HeadNorm, LayerNorm, RMSNorm
from exgate.layers.rnn import LSTM, MLSTM, SLSTM
from exgate.layers.slstm import DenseSLSTMLayer, SLSTMLayer
from exgate.layers.stack import Bidirectional, Residual, Stack

__all__ = [
    "FFN",
    "LSTM",
    "MLSTM",
    "SLSTM",
    "AdditiveAttention",
    "Bidirectional",
    "CausalConv",
    "DenseSLSTMLayer",
    "HeadNorm",
    "HeadwiseLinear",
    "LSTMLayer",
    "LayerNorm",
    "MLSTM7BLayer",
    "MLSTMLayer",
    "RMSNorm",
    "Residual",
    "SLSTMLayer",
    "Stack",
]
