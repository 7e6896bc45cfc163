"""sLSTM over a sequence: exponential gating, scalar memories, memory mixing inside each head."""

from typing import NamedTuple

import torch
from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type
from exgate.ops.slstm import cpu, eager, reference, triton

BACKENDS = {"cpu": cpu, "triton": triton, "eager": eager, "reference": reference}


class SLSTMState(NamedTuple):
    """h, c, n and m after the last step, (B, H, K) each, in float32 (float64 for float64 inputs).

    c and n are stored divided by exp(m). Empty: h = c = n = 0 and m = -inf.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


def slstm(
    x: Tensor,
    r: Tensor,
    state: SLSTMState | None = None,
    *,
    forget_gate: str = "sigmoid",
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, SLSTMState]:
    r"""Scalar-memory LSTM with exponential gating (Beck et al. 2024, arXiv:2405.04517, section 2.2).

    $c_t = f_t c_{t-1} + i_t \tanh(\tilde z_t),\quad n_t = f_t n_{t-1} + i_t,\quad
    h_t = \sigma(\tilde o_t)\, c_t / n_t$ with $i_t = \exp(\tilde i_t)$, $f_t = \sigma(\tilde f_t)$ or
    $\exp(\tilde f_t)$, and $\tilde g_t = x_{g,t} + R_g h_{t-1}$ for each gate $g$. c and n are kept divided by
    $\exp(m_t)$, $m_t = \max(\log f_t + m_{t-1}, \tilde i_t)$; m is a gauge, and derivatives treat it as a constant.

    Args:
        x: (B, T, 4, H, K), the input products plus bias: raw pre-activations (logits) in the order i f z o.
        r: (4, H, K, K) = [gate, head, out, in], the recurrent weights.
        state: where to continue from; None starts empty (h = c = n = 0, m = -inf). Never modified.
        forget_gate: 'sigmoid' (as published) or 'exp'.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        backend: 'cpu', 'triton', 'eager' or 'reference'; None takes the first that can.
    Returns:
        h: (B, T, H, K) in x's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, an option is unknown, or there is no such backend.
    Cost: O(T H K^2). For backward 'cpu' keeps the gates of every step and each 8th state; 'triton' and 'eager' keep
        h, c, n and m of every step and compute the gates again.
    """
    sizes = check_sequence("slstm", "x", x, "B T 4 H K")
    check_shape("slstm", "r", r, "4 H K K", sizes, "x")
    check_reset("slstm", reset, sizes, "x")
    if forget_gate not in ("sigmoid", "exp"):
        raise ValueError(f"slstm: forget_gate is {forget_gate!r}; it should be 'sigmoid' or 'exp'.")
    kind = state_type(x)
    if state is None:
        zero = x.new_zeros(sizes["B"], sizes["H"], sizes["K"], dtype=kind)
        state = SLSTMState(zero, zero.clone(), zero.clone(), torch.full_like(zero, -torch.inf))
    for name, tensor in zip(SLSTMState._fields, state, strict=True):
        check_shape("slstm", f"state.{name}", tensor, "B H K", sizes, "x")
    h, c, n, m = (tensor.to(kind) for tensor in state)
    state = SLSTMState(h, c, n, m.detach())
    args = (x, r, state, forget_gate, reset)
    run = choose("slstm", BACKENDS, backend, *args).run
    with full_precision(x):
        return run(*args)
