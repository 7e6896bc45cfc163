"""What the Triton backends share: where they can run, how a kernel is launched, and how it is looked at without a GPU.

Triton is imported by the first launch, never by `import exgate`. Two ways work without a device. `interpreter()` makes
the backends take tensors of the CPU and run them in Triton's interpreter, slowly: so the laws are tested.
`recording(target)` runs nothing and lists the launches, exactly as they would be: so they are compiled for a device
that is not there.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

INSTALLED = find_spec("triton") is not None

_interpreting = False
_recording: "tuple[Target, list[Launch]] | None" = None


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for: "cuda" and 80, 90, ... or "hip" and "gfx942", and what a block of it may use."""

    kind: str
    arch: int | str
    shared: int  # bytes of shared memory that one block may have
    processors: int  # blocks that run at once at the least


SM80 = Target("cuda", 80, 166_912, 108)
SM90 = Target("cuda", 90, 232_448, 132)
GFX942 = Target("hip", "gfx942", 65_536, 304)


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, its grid, its arguments in order, and the compile-time constants with the options."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, int]


@contextmanager
def interpreter() -> Iterator[None]:
    """Inside the block the Triton backends take tensors of the CPU, and run them in Triton's interpreter.

    Raises:
        RuntimeError: Triton is not installed, or was imported before with the interpreter off.
    """
    global _interpreting
    if not INSTALLED:
        raise RuntimeError("gpu.interpreter: Triton is not installed. Use: pip install triton")
    if "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    if not interpreted():
        raise RuntimeError(
            "gpu.interpreter: Triton was imported with its interpreter off. Set TRITON_INTERPRET=1 when Python starts."
        )
    before, _interpreting = _interpreting, True
    try:
        yield
    finally:
        _interpreting = before


@contextmanager
def recording(target: Target) -> Iterator[list[Launch]]:
    """Inside the block nothing runs: launches for `target` are listed, and outputs hold whatever memory held."""
    global _recording
    before, _recording = _recording, (target, [])
    try:
        yield _recording[1]
    finally:
        _recording = before


def interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter in this process."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def one_by_one() -> bool:
    """Whether a launch runs its programs one after the other, so that none may wait for another."""
    return interpreted() and _recording is None


def refuses(*tensors: Tensor | None) -> str | None:
    """The reasons that every Triton backend shares: where the tensors are, float64, export, no Triton."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cuda" and not (_interpreting or _recording):
            return f"a tensor is on {tensor.device}, not on a GPU"
        if tensor is not None and tensor.dtype == torch.float64:
            return "the kernels compute in float32, and an input is float64"
    if torch.compiler.is_exporting():
        return "an exported program runs where Triton may not be"
    device = next(tensor.device for tensor in tensors if tensor is not None)
    if device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_properties(device).major < 8:
        return "the kernels need a GPU of compute capability 8.0 (Ampere) or later"
    return None if INSTALLED else "Triton is not installed. Use: pip install triton"


def target(device: torch.device) -> Target:
    """What a kernel for tensors on `device` is compiled for. Where nothing is compiled, an H100."""
    if _recording is not None:
        return _recording[0]
    if device.type != "cuda":
        return SM90
    found = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Target("hip", found.gcnArchName.split(":")[0], 65_536, found.multi_processor_count)
    shared = getattr(found, "shared_memory_per_block_optin", 101_376)
    return Target("cuda", 10 * found.major + found.minor, shared, found.multi_processor_count)


def products(kind: torch.dtype, device: torch.device) -> dict[str, Any]:
    """`DOT`, the type that a kernel's operands of matrix products have, and `PRECISION`, how float32 ones multiply.

    bfloat16 stays; float16 becomes float32 cut to 10 bits of mantissa (TF32), which are its own, since memories
    overflow its range. float32 is multiplied as three products of TF32, which lose nothing that matters, unless
    PyTorch is told that one is enough (`torch.backends.cuda.matmul.fp32_precision`). Triton's interpreter multiplies
    bfloat16 wrongly, so there every operand is float32.
    """
    import triton.language as tl

    if interpreted():
        return {"DOT": tl.float32, "PRECISION": "ieee"}
    if kind == torch.bfloat16:
        return {"DOT": tl.bfloat16, "PRECISION": "ieee"}  # which says nothing for bfloat16
    fast = kind == torch.float16 or torch.backends.cuda.matmul.fp32_precision == "tf32"
    if target(device).kind == "hip":
        return {"DOT": tl.float32, "PRECISION": "tf32" if fast and target(device).arch == "gfx942" else "ieee"}
    return {"DOT": tl.float32, "PRECISION": "tf32" if fast else "tf32x3"}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    warps: int = 4,
    stages: int = 2,
    together: bool = False,
    **constants: Any,
):
    """Run `kernel[grid](*arguments, **constants)` on the device of the first tensor, or list it while recording.

    `together`: the programs wait for each other, so the launch has to fail where they cannot all run at once.
    """
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    if constants.get("PRECISION") == "tf32" and target(device).arch == 90 and not _pipelines_safely():
        stages = 1
    options = {"num_warps": warps, "num_stages": stages} | ({"launch_cooperative_grid": True} if together else {})
    if _recording is not None:
        _recording[1].append(Launch(kernel, grid, arguments, constants, options))
        return
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](*arguments, **constants, **options)
    else:
        kernel[grid](*arguments, **constants, **options)


def _pipelines_safely() -> bool:
    """Whether Triton leaves the registers alone that a product under way on Hopper reads: before 3.9, those of
    pipelined products of TF32 are overwritten.
    """
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)


def power_of_two(number: int, least: int = 16) -> int:
    """The next power of two, `least` at the least: what a tile of `number` columns is wide."""
    return max(least, 1 << (number - 1).bit_length())
