"""mLSTM over a sequence: exponential gating and a matrix memory with a covariance update."""

from typing import NamedTuple

import torch
from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, operands, state_type
from exgate.ops.mlstm import cpu, eager, reference, triton

BACKENDS = {"cpu": cpu, "triton": triton, "eager": eager, "reference": reference}


class MLSTMState(NamedTuple):
    """c (B, H, K, V), n (B, H, K) and m (B, H) after the last step, in float32 (float64 for float64 inputs).

    c and n are stored divided by exp(m): with `eps=0`, (c e^d, n e^d, m - d) is the same state. Empty: c = n = m = 0.
    """

    c: Tensor
    n: Tensor
    m: Tensor


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | None = None,
    *,
    input_gate: str = "exp",
    normalize: bool = True,
    eps: float = 0.0,
    reset: Tensor | None = None,
    chunk_size: int | None = None,
    backend: str | None = None,
) -> tuple[Tensor, MLSTMState]:
    r"""Matrix-memory LSTM over a sequence (Beck et al. 2024, arXiv:2405.04517, section 2.3).

    $C_t = f_t C_{t-1} + i_t\, k_t v_t^\top,\quad n_t = f_t n_{t-1} + i_t k_t,\quad
    h_t = C_t^\top q_t / (\max(|n_t^\top q_t|, 1) + \epsilon e^{m_t})$ with $f_t = \sigma(\tilde f_t)$ and
    $i_t = \exp(\tilde i_t)$. C and n are kept divided by $\exp(m_t)$, $m_t = \max(\log f_t + m_{t-1}, \tilde i_t)$;
    m is a gauge, and derivatives treat it as a constant. `input_gate="sigmoid"` is the variant of the TFLA paper
    (arXiv:2503.14376): $i_t = \sigma(\tilde i_t)$ and m stays 0.

    Args:
        q, k: (B, T, H, K). q is scaled by K**-0.5 here; do not scale it before.
        v: (B, T, H, V).
        i, f: (B, T, H), raw pre-activations (logits).
        state: where to continue from; None starts empty (c = n = m = 0). m = -inf with c = n = 0 is allowed: the empty
            state of the published whole-sequence form. Never modified.
        input_gate: 'exp' or 'sigmoid'.
        normalize: False leaves the denominator out: h = C q. With exponential gates that can overflow.
        eps: added to the denominator of the stored (stabilised) form; the published layers use 1e-6.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        chunk_size: steps per chunk, any number: 1 is the recurrent form, T the parallel one. None chooses.
        backend: 'cpu', 'triton', 'eager' or 'reference'; None takes the first that can.
    Returns:
        h: (B, T, H, V) in v's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, an option is unknown, or there is no such backend.
    Cost: O(T L (K+V) + T K V) per head with L steps per chunk; the state is K V + K + 1 numbers per head.
    """
    sizes = check_sequence("mlstm", "q", q, "B T H K")
    check_shape("mlstm", "k", k, "B T H K", sizes, "q")
    check_shape("mlstm", "v", v, "B T H V", sizes, "q")
    check_shape("mlstm", "i", i, "B T H", sizes, "q")
    check_shape("mlstm", "f", f, "B T H", sizes, "q")
    check_reset("mlstm", reset, sizes, "q")
    if input_gate not in ("exp", "sigmoid"):
        raise ValueError(f"mlstm: input_gate is {input_gate!r}; it should be 'exp' or 'sigmoid'.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"mlstm: chunk_size is {chunk_size}; it should be at least 1, or None to let the op choose.")
    sizes["V"] = v.shape[-1]
    kind = state_type(q, k, v)
    state = None if state is None else _checked(state, sizes, kind, input_gate)
    args = (q, k, v, i, f, state, input_gate, normalize, eps, reset, chunk_size)
    run = choose("mlstm", BACKENDS, backend, *args).run
    kinds = operands(q, k, v)
    with full_precision(q):
        h, last = run(q.to(kinds), k.to(kinds), v.to(kinds), *args[3:])
        return h.to(v.dtype), MLSTMState(*last)


def _checked(state: MLSTMState, sizes: dict[str, int], kind: torch.dtype, input_gate: str) -> MLSTMState:
    for (name, tensor), letters in zip(state._asdict().items(), ("B H K V", "B H K", "B H"), strict=True):
        check_shape("mlstm", f"state.{name}", tensor, letters, sizes, "q and v")
    c, n, m = state.c.to(kind), state.n.to(kind), state.m.detach().to(kind)
    if input_gate == "sigmoid":  # m stays 0 there: fold what the caller's m says into c and n
        scale = m.exp()
        c, n, m = c * scale[..., None, None], n * scale[..., None], torch.zeros_like(m)
    return MLSTMState(c, n, m)
