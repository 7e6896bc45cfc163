"""What the machine can do at best, and how much the cells ask of it."""

import torch

from benchmarks.timing import milliseconds


def limits(before: dict[str, float] | None = None) -> dict[str, float]:
    """GFLOP/s of a matrix product in float32 and bfloat16, GB/s of reading memory: the fastest of several calls.

    And of those `before`: what others do on the machine must not make the limit look low. Asked for at every case.
    """
    large = torch.ones(2**26)  # 256 MiB, beyond every cache
    reads = (large.sum, lambda: torch.dot(large, large))
    found = {
        "float32": max(_gemm(size, torch.float32) for size in (1024, 2048)),
        "bf16": max(_gemm(size, torch.bfloat16) for size in (1024, 2048)),
        "read": max(4 * large.numel() / 1e6 / _fastest(read) for read in reads),
    }
    return {name: max(value, (before or found)[name]) for name, value in found.items()}


def _gemm(size: int, dtype: torch.dtype) -> float:
    a, b = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / 1e6 / _fastest(lambda: torch.mm(a, b))


def _fastest(call, rounds: int = 3) -> float:
    call()
    return min(milliseconds(call) for _ in range(rounds))


def slstm(hidden: int, batch: int, steps: int, heads: int = 4) -> dict[str, float]:
    """Useful operations of the recurrent products, forward and with backward: 8 K and 16 K more per element of h."""
    elements, size = hidden * batch * steps, hidden / heads
    return {"forward": 8 * size * elements, "both": 24 * size * elements}


def mlstm(batch: int, steps: int, size: int, heads: int = 4) -> dict[str, float]:
    """Useful operations with K = V = `size` (exgate/ops/mlstm/cpu.cpp): what backward computes again does not count."""
    from exgate.ops.mlstm.cpu import CHUNK

    rows = batch * steps * heads
    forward = 4 * size**2 + 2 * CHUNK * size
    return {"forward": rows * forward, "both": rows * (forward + 8 * size**2 + 5 * CHUNK * size)}
