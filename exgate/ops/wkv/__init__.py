"""WKV, the attention of RWKV-4: a mean of all values so far, weighed by their keys and their age."""

from typing import NamedTuple

from torch import Tensor

from exgate.ops.dispatch import check_reset, check_sequence, check_shape, choose, full_precision, state_type
from exgate.ops.wkv import cpu, eager, reference

BACKENDS = {"cpu": cpu, "eager": eager, "reference": reference}


class WKVState(NamedTuple):
    """Numerator c and denominator n, both divided by exp(m), (B, D) each, in float32 (float64 for float64 inputs).

    m is the running maximum of the aged keys, a gauge: (c e^d, n e^d, m - d) is the same state. Empty: 0, 0, -inf.
    """

    c: Tensor
    n: Tensor
    m: Tensor


def wkv(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: WKVState | None = None,
    *,
    reset: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, WKVState]:
    r"""Weighted key-value mean with decay (Peng et al. 2023, arXiv:2305.13048, RWKV-4), each channel by itself.

    $y_t = \frac{\sum_{s<t} e^{-(t-1-s)w + k_s} v_s + e^{u+k_t} v_t}{\sum_{s<t} e^{-(t-1-s)w + k_s} + e^{u+k_t}}$, that
    is $c_t = e^{-w} c_{t-1} + e^{k_t} v_t,\quad n_t = e^{-w} n_{t-1} + e^{k_t},\quad
    y_t = (c_{t-1} + e^{u+k_t} v_t) / (n_{t-1} + e^{u+k_t})$, computed without an exponential above 1.

    Args:
        k, v: (B, T, D), keys (logits) and values.
        w: (D,), positive: the decay rate in nats per step. What is a step older counts e^-w as much.
        u: (D,), added to the key of the current step alone (logits).
        state: where to continue from; None starts empty. Never modified. Derivatives treat m as a constant.
        reset: (B, T), True where a new document begins: the state is emptied before that step.
        backend: 'cpu', 'eager' or 'reference'; None takes the first that can.
    Returns:
        y: (B, T, D) in v's type, and the state after the last step.
    Raises:
        ValueError: shapes or types disagree, T is 0, or there is no such backend.
    Cost: O(T D); for backward one state per chunk is kept.
    """
    sizes = check_sequence("wkv", "k", k, "B T D")
    check_shape("wkv", "v", v, "B T D", sizes, "k")
    for name, tensor in (("w", w), ("u", u)):
        check_shape("wkv", name, tensor, "D", sizes, "k")
    check_reset("wkv", reset, sizes, "k")
    kind = state_type(k, v)
    if state is None:
        empty = k.new_zeros(sizes["B"], sizes["D"], dtype=kind)
        state = WKVState(empty, empty.clone(), empty - float("inf"))
    for name, tensor in zip(WKVState._fields, state, strict=True):
        check_shape("wkv", f"state.{name}", tensor, "B D", sizes, "k")
    state = WKVState(*(tensor.to(kind) for tensor in state))
    args = (k, v, w, u, state, reset)
    run = choose("wkv", BACKENDS, backend, *args).run
    with full_precision(k):
        return run(*args)
