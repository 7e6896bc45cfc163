"""Causal multi-head attention over a sequence, with the keys and values of the document so far as its state."""

from typing import NamedTuple

import torch
from torch import Tensor

from exgate.ops.attention import eager, reference
from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, operands, state_type

BACKENDS = {"eager": eager, "reference": reference}


class AttentionState(NamedTuple):
    """k (B, S, G, K), turned by their positions, and v (B, S, G, V), newest last; position (B,), that of the next step.

    Only the last min(position, S) entries of a row count; those in front (of earlier documents, or put there to make
    rows equally long) may be anything finite. Empty: S = 0, position 0. All float32 (float64 for float64 inputs), as
    every state: a sequence that is split is then the whole, gradients included, at twice the memory of bfloat16.
    position is a whole number, exact to 2^24, without a derivative.
    """

    k: Tensor
    v: Tensor
    position: Tensor
    GROWS = ("k", "v")  # with every step, in dimension 1 (exgate.ops.state)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: AttentionState | None = None,
    *,
    rope_theta: float = 10000.0,
    window: int | None = None,
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, AttentionState]:
    r"""Causal softmax attention (Vaswani et al. 2017, arXiv:1706.03762) with rotary positions (arXiv:2104.09864).

    $y_t = \sum_{s \le t} a_{ts} v_s,\quad a_t = \mathrm{softmax}_s((R_t q_t)^\top R_s k_s / \sqrt K)$ over the steps of
    the document. $R_t$ turns each pair of entries (2i, 2i+1) by the angle $p_t\,\theta^{-2i/K}$, where the position
    $p_t$ counts the document's steps before t. The position is part of the state: that is why q and k are turned here.

    Args:
        q: (B, T, H, K), scaled by K**-0.5 here; do not scale it before.
        k: (B, T, G, K) and v: (B, T, G, V) with G heads that divide H: head h reads the keys of head h // (H / G).
        state: where to continue from; None starts empty. Never modified.
        rope_theta: θ; 0 turns nothing, and order is known by the causal mask alone.
        window: a step sees the newest `window` keys, its own among them; None sees all.
        reset: (B, T), True where a new document begins: earlier keys are not seen from there on.
        backend: 'eager' or 'reference'; None takes the first that can.
    Returns:
        y: (B, T, H, V) in v's type, and the state with T more entries (with a window, at most window - 1 in all).
    Raises:
        ValueError: shapes or types disagree, T is 0, K is odd with rope_theta, window is less than 1, or there is no
            such backend.
    Cost: O(T (S + T) (K + V)) per head, and the state grows: S (K + V) numbers for each of G heads after S steps,
        copied at each call. Resets do not shrink it.
    """
    sizes = check_sequence("attention", "q", q, "B T H K")
    check_shape("attention", "k", k, "B T G K", sizes, "q")
    sizes["G"] = k.shape[2]
    check_shape("attention", "v", v, "B T G V", sizes, "q and k")
    check_reset("attention", reset, sizes, "q")
    if not sizes["G"] or sizes["H"] % sizes["G"]:
        raise ValueError(
            f"attention: q has H={sizes['H']} heads and k has G={sizes['G']}; G should divide H. Change one of them."
        )
    if rope_theta and sizes["K"] % 2:
        raise ValueError(f"attention: K={sizes['K']} is odd, but rotary positions turn pairs. Set rope_theta=0.")
    if window is not None and window < 1:
        raise ValueError(f"attention: window is {window}; it should be at least 1, or None to see all.")
    sizes["V"] = v.shape[-1]
    kind = state_type(q, k, v)
    args = (_start(state, q, sizes, kind), rope_theta, window, reset)
    run = choose("attention", BACKENDS, backend, q, k, v, *args).run
    kinds = operands(q, k, v)
    with full_precision(q):
        y, last = run(q.to(kinds), k.to(kinds), v.to(kinds), *args)
        return y.to(v.dtype), last


def _start(state: AttentionState | None, q: Tensor, sizes: dict[str, int], kind: torch.dtype) -> AttentionState:
    if state is None:
        b, g, k, v = (sizes[letter] for letter in "BGKV")
        return AttentionState(*(q.new_zeros(shape, dtype=kind) for shape in ((b, 0, g, k), (b, 0, g, v), (b,))))
    check_shape("attention", "state.k", state.k, "B S G K", sizes, "q and k")
    sizes = {**sizes, "S": state.k.shape[1]}
    check_shape("attention", "state.v", state.v, "B S G V", sizes, "v and state.k")
    check_shape("attention", "state.position", state.position, "B", sizes, "q")
    return AttentionState(state.k.to(kind), state.v.to(kind), state.position.detach().to(kind))
