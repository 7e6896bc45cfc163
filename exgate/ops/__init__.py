"""The recurrences as pure functions: tensors and a state in, tensors and a state out.

`exgate.ops.mlstm` and its like are the functions; their backends are imported as `from exgate.ops.mlstm import eager`.
"""

from exgate.ops.attention import AttentionState, attention
from exgate.ops.conv import ConvState, conv
from exgate.ops.dispatch import use_backend
from exgate.ops.headnorm import headnorm
from exgate.ops.headwise import headwise
from exgate.ops.linear import linear
from exgate.ops.lstm import LSTMState, lstm
from exgate.ops.mlstm import MLSTMState, mlstm
from exgate.ops.rnn import RNNState, rnn
from exgate.ops.slstm import SLSTMState, slstm
from exgate.ops.ssm import SSMState, ssm
from exgate.ops.state import savable
from exgate.ops.wkv import WKVState, wkv

__all__ = [
    "AttentionState",
    "ConvState",
    "LSTMState",
    "MLSTMState",
    "RNNState",
    "SLSTMState",
    "SSMState",
    "WKVState",
    "attention",
    "conv",
    "headnorm",
    "headwise",
    "linear",
    "lstm",
    "mlstm",
    "rnn",
    "slstm",
    "ssm",
    "use_backend",
    "wkv",
]

savable(AttentionState, ConvState, LSTMState, MLSTMState, RNNState, SLSTMState, SSMState, WKVState)
