"""Layers: modules with parameters, forward(x, state=None, *, reset=None) -> (y, state), shapes (B, T, D)."""

from exgate.layers.additive import AdditiveAttention
from exgate.layers.attention import AttentionLayer
from exgate.layers.conv import CausalConv
from exgate.layers.elman import RNNLayer
from exgate.layers.ffn import FFN
from exgate.layers.linear import HeadwiseLinear
from exgate.layers.lstm import LSTMLayer
from exgate.layers.mamba import MambaLayer
from exgate.layers.mlstm import MLSTM7BLayer, MLSTMLayer
from exgate.layers.norm import HeadNorm, LayerNorm, RMSNorm
from exgate.layers.rnn import LSTM, MLSTM, SLSTM
from exgate.layers.rwkv import ChannelMix, TimeMix
from exgate.layers.slstm import DenseSLSTMLayer, SLSTMLayer
from exgate.layers.stack import Bidirectional, Residual, Stack

__all__ = [
    "FFN",
    "LSTM",
    "MLSTM",
    "SLSTM",
    "AdditiveAttention",
    "AttentionLayer",
    "Bidirectional",
    "CausalConv",
    "ChannelMix",
    "DenseSLSTMLayer",
    "HeadNorm",
    "HeadwiseLinear",
    "LSTMLayer",
    "LayerNorm",
    "MLSTM7BLayer",
    "MLSTMLayer",
    "MambaLayer",
    "RMSNorm",
    "RNNLayer",
    "Residual",
    "SLSTMLayer",
    "Stack",
    "TimeMix",
]
