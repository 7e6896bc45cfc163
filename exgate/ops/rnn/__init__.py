"""The vanilla recurrent network over a sequence, with block-diagonal (per-head) recurrence."""

from typing import NamedTuple

from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type
from exgate.ops.rnn import eager, reference

BACKENDS = {"eager": eager, "reference": reference}


class RNNState(NamedTuple):
    """h after the last step, (B, H, K), in float32 (float64 for float64 inputs)."""

    h: Tensor


def rnn(
    x: Tensor,
    r: Tensor,
    state: RNNState | None = None,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, RNNState]:
    r"""The simple recurrent network of Elman (1990), the recurrence only: $h_t = \tanh(x_t + R\, h_{t-1})$.

    Args:
        x: (B, T, H, K), the input products plus bias: raw pre-activations.
        r: (H, K, K) = [head, out, in], the recurrent weights. One head is the dense recurrence.
        state: where to continue from; None starts at zero. Never modified.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        backend: 'eager' or 'reference'; None takes the first that can.
    Returns:
        h: (B, T, H, K) in x's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, or there is no such backend.
    Cost: O(T H K^2); for backward h of every step is kept.
    """
    sizes = check_sequence("rnn", "x", x, "B T H K")
    check_shape("rnn", "r", r, "H K K", sizes, "x")
    check_reset("rnn", reset, sizes, "x")
    kind = state_type(x)
    if state is None:
        state = RNNState(x.new_zeros(sizes["B"], sizes["H"], sizes["K"], dtype=kind))
    check_shape("rnn", "state.h", state.h, "B H K", sizes, "x")
    args = (x, r, RNNState(state.h.to(kind)), reset)
    run = choose("rnn", BACKENDS, backend, *args).run
    with full_precision(x):
        return run(*args)
