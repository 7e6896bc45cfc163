"""The causal depthwise convolution as a layer."""

import torch
from torch import Tensor, nn

from exgate import ops
from exgate.ops import ConvState


class CausalConv(nn.Module):
    """Each channel convolved with its own kernel over the last `kernel` steps, plus bias (see `exgate.ops.conv`).

    Args:
        dim: channels.
        kernel: taps; weight[:, -1] multiplies the newest input. The state is the last kernel - 1 inputs.
        activation: None, or "silu" for SiLU of the result.
    Raises:
        ValueError: kernel is less than 1.
    """

    def __init__(self, dim: int, kernel: int = 4, *, activation: str | None = None, device=None, dtype=None) -> None:
        super().__init__()
        if kernel < 1:
            raise ValueError(f"CausalConv: kernel is {kernel}; a kernel has at least one tap.")
        self.dim, self.kernel, self.activation = dim, kernel, activation
        self.weight = nn.Parameter(torch.empty(dim, kernel, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Conv1d: uniform in ± 1 / sqrt(kernel)."""
        nn.init.uniform_(self.weight, -(self.kernel**-0.5), self.kernel**-0.5)
        nn.init.uniform_(self.bias, -(self.kernel**-0.5), self.kernel**-0.5)

    def forward(
        self, x: Tensor, state: ConvState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, ConvState]:
        """x (B, T, dim), state x (B, kernel-1, dim), reset (B, T) -> (B, T, dim) and the state."""
        return ops.conv(x, self.weight, self.bias, state, activation=self.activation, reset=reset)

    def extra_repr(self) -> str:
        return f"{self.dim}, kernel={self.kernel}, activation={self.activation}"
