"""Causal depthwise convolution over a sequence."""

from typing import NamedTuple

from torch import Tensor

from exgate.ops.conv import cpu, eager, reference, triton
from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type

BACKENDS = {"cpu": cpu, "triton": triton, "eager": eager, "reference": reference}


class ConvState(NamedTuple):
    """The last kernel-1 inputs (B, kernel-1, D), oldest first, in float32 (float64 for float64 inputs). Empty: 0."""

    x: Tensor


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: ConvState | None = None,
    *,
    activation: str | None = None,
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ConvState]:
    r"""Causal convolution of each channel with its own kernel.

    $y_t = b + \sum_{j=0}^{J-1} w_j\, x_{t-J+1+j}$ with J the kernel, or SiLU of that; inputs before the document are
    zero.

    Args:
        x: (B, T, D).
        weight: (D, J); weight[:, -1] multiplies the newest input.
        bias: (D,) or None.
        state: where to continue from; None starts with zeros. Never modified.
        activation: None, or 'silu' for $y \sigma(y)$.
        reset: (B, T), True where a new document begins: earlier inputs are not seen from there on.
        backend: 'cpu', 'triton', 'eager' or 'reference'; None takes the first that can.
    Returns:
        y: (B, T, D) in x's type, and the state: the last J-1 inputs.
    Raises:
        ValueError: shapes or types disagree, T is 0, an option is unknown, or there is no such backend.
    Cost: O(T D J).
    """
    sizes = check_sequence("conv", "x", x, "B T D")
    check_shape("conv", "weight", weight, "D kernel", sizes, "x")
    if weight.shape[1] == 0:
        raise ValueError("conv: weight has kernel=0 in its shape; a kernel has at least one tap.")
    if bias is not None:
        check_shape("conv", "bias", bias, "D", sizes, "x")
    check_reset("conv", reset, sizes, "x")
    if activation not in (None, "silu"):
        raise ValueError(f"conv: activation is {activation!r}; it should be None or 'silu'.")
    kind, kept = state_type(x), weight.shape[1] - 1
    if state is None:
        state = ConvState(x.new_zeros(sizes["B"], kept, sizes["D"], dtype=kind))
    check_shape("conv", "state.x", state.x, f"B {kept} D", sizes, "x")
    state = ConvState(state.x.to(kind))
    args = (x, weight, bias, state, reset, activation)
    run = choose("conv", BACKENDS, backend, *args).run
    with full_precision(x):
        return run(*args)
