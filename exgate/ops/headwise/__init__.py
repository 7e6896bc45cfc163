"""A product with a block-diagonal matrix."""

from torch import Tensor

from exgate.ops.dispatch import check_shape, choose
from exgate.ops.headwise import cpu, eager

BACKENDS = {"cpu": cpu, "eager": eager}


def headwise(x: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    r"""$y_{n,o} = \sum_i W_{n,o,i}\, x_{n,i}$, x cut into as many equal parts as W has blocks.

    Args:
        x: (..., N I).
        weight: (N, O, I) with O = I.
        backend: 'cpu' (float32 sequences, blocks of 2 or 4) or 'eager'; None takes the first that can.
    Returns:
        (..., N O) in x's type.
    Raises:
        ValueError: shapes disagree, or there is no such backend.
    Cost: I operations per number of x.
    """
    check_shape("headwise", "weight", weight, "N O I", {}, "x")
    blocks, outs, ins = weight.shape
    if outs != ins or x.shape[-1] != blocks * ins:
        raise ValueError(
            f"headwise: weight has shape {(blocks, outs, ins)} and x {tuple(x.shape)}; weight should be (N, I, I), and "
            "x (..., N I)."
        )
    return choose("headwise", BACKENDS, backend, x, weight).run(x, weight)
