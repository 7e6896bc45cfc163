"""The selective scan of Mamba over a sequence: a diagonal state space model whose dynamics depend on the input."""

from typing import NamedTuple

from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type
from exgate.ops.ssm import cpu, eager, reference

BACKENDS = {"cpu": cpu, "eager": eager, "reference": reference}


class SSMState(NamedTuple):
    """h (B, D, N) after the last step, in float32 (float64 for float64 inputs). Empty: 0."""

    h: Tensor


def ssm(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor | None = None,
    state: SSMState | None = None,
    *,
    reset: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, SSMState]:
    r"""Selective state space model over a sequence (Gu and Dao 2023, arXiv:2312.00752, sections 3.2 and 3.3).

    $h_{t,dn} = e^{\Delta_{t,d} A_{dn}} h_{t-1,dn} + \Delta_{t,d} u_{t,d} B_{t,n},\quad
    y_{t,d} = \sum_n C_{t,n} h_{t,dn} + D_d u_{t,d}$: each channel d has N states of its own. B enters as $\Delta B$, as
    in the authors' code, and not by the zero-order hold of equation 4.

    Args:
        u: (B, T, D), the input.
        delta: (B, T, D), the size of each step, positive: after the softplus.
        a: (D, N), A, negative: -exp(A_log). A positive entry grows without bound.
        b, c: (B, T, N), B and C, what is written to the states and read from them.
        skip: (D,), the D of the equation, or None.
        state: where to continue from; None starts empty. Never modified.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        chunk_size: steps per chunk, any number; None chooses. The result does not depend on it.
        backend: 'cpu', 'eager' or 'reference'; None takes the first that can.
    Returns:
        y: (B, T, D) in u's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, chunk_size is below 1, or there is no such backend.
    Cost: O(T D N). Backward computes the states again from one (B, D, N) per chunk.
    """
    sizes = check_sequence("ssm", "u", u, "B T D")
    check_shape("ssm", "delta", delta, "B T D", sizes, "u")
    check_shape("ssm", "a", a, "D N", sizes, "u")
    sizes["N"] = a.shape[1]
    check_shape("ssm", "b", b, "B T N", sizes, "u and a")
    check_shape("ssm", "c", c, "B T N", sizes, "u and a")
    if skip is not None:
        check_shape("ssm", "skip", skip, "D", sizes, "u")
    check_reset("ssm", reset, sizes, "u")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"ssm: chunk_size is {chunk_size}; it should be at least 1, or None to let the op choose.")
    kind = state_type(u, delta, b, c)
    if state is None:
        state = SSMState(u.new_zeros(sizes["B"], sizes["D"], sizes["N"], dtype=kind))
    check_shape("ssm", "state.h", state.h, "B D N", sizes, "u and a")
    state = SSMState(state.h.to(kind))
    args = (u, delta, a, b, c, skip, state, reset, chunk_size)
    run = choose("ssm", BACKENDS, backend, *args).run
    with full_precision(u):
        return run(*args)
