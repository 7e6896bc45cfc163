"""LSTM over a sequence, with optional peepholes and block-diagonal (per-head) recurrence."""

from typing import NamedTuple

from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type
from exgate.ops.lstm import cpu, eager, reference, triton

BACKENDS = {"cpu": cpu, "triton": triton, "eager": eager, "reference": reference}


class LSTMState(NamedTuple):
    """h and c after the last step, (B, H, K) each, in float32 (float64 for float64 inputs)."""

    h: Tensor
    c: Tensor


def lstm(
    x: Tensor,
    r: Tensor,
    state: LSTMState | None = None,
    *,
    peephole: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, LSTMState]:
    r"""LSTM with a forget gate (Hochreiter and Schmidhuber 1997; Gers et al. 2000), the recurrence only.

    $c_t = \sigma(\tilde f_t)\, c_{t-1} + \sigma(\tilde i_t) \tanh(\tilde z_t),\quad
    h_t = \sigma(\tilde o_t) \tanh(c_t)$ with $\tilde g_t = x_{g,t} + R_g h_{t-1}$ for each gate $g$. Peepholes (Gers
    and Schmidhuber 2000) add $p_i c_{t-1}$ to $\tilde i_t$, $p_f c_{t-1}$ to $\tilde f_t$ and $p_o c_t$
    to $\tilde o_t$.

    Args:
        x: (B, T, 4, H, K), the input products plus bias: raw pre-activations (logits) in the order i f z o. z is what
            `torch.nn.LSTM` calls g, and the order is its order.
        r: (4, H, K, K) = [gate, head, out, in], the recurrent weights. One head is the dense recurrence.
        state: where to continue from; None starts at zero. Never modified.
        peephole: (3, H, K) in the order i f o, or None.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        backend: 'cpu', 'triton', 'eager' or 'reference'; None takes the first that can.
    Returns:
        h: (B, T, H, K) in x's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, or there is no such backend.
    Cost: O(T H K^2). For backward 'cpu' keeps the gates of every step and each 8th state; 'triton' and 'eager' keep
        h and c of every step and compute the gates again.
    """
    sizes = check_sequence("lstm", "x", x, "B T 4 H K")
    check_shape("lstm", "r", r, "4 H K K", sizes, "x")
    if peephole is not None:
        check_shape("lstm", "peephole", peephole, "3 H K", sizes, "x")
    check_reset("lstm", reset, sizes, "x")
    kind = state_type(x)
    if state is None:
        empty = x.new_zeros(sizes["B"], sizes["H"], sizes["K"], dtype=kind)
        state = LSTMState(empty, empty.clone())
    for name, tensor in zip(LSTMState._fields, state, strict=True):
        check_shape("lstm", f"state.{name}", tensor, "B H K", sizes, "x")
    state = LSTMState(*(tensor.to(kind) for tensor in state))
    args = (x, r, state, peephole, reset)
    run = choose("lstm", BACKENDS, backend, *args).run
    with full_precision(x):
        return run(*args)
