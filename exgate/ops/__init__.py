"""The recurrences as pure functions: tensors and a state in, tensors and a state out.

`exgate.ops.mlstm` and its like are the functions; their backends are imported as `from exgate.ops.mlstm import eager`.
"""

from exgate.ops.conv import ConvState, conv
from exgate.ops.dispatch import use_backend
from exgate.ops.linear import linear
from exgate.ops.lstm import LSTMState, lstm
from exgate.ops.mlstm import MLSTMState, mlstm
from exgate.ops.slstm import SLSTMState, slstm
from exgate.ops.ssm import SSMState, ssm

__all__ = [
    "ConvState",
    "LSTMState",
    "MLSTMState",
    "SLSTMState",
    "SSMState",
    "conv",
    "linear",
    "lstm",
    "mlstm",
    "slstm",
    "ssm",
    "use_backend",
]
