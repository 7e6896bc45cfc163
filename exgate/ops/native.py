"""The compiled kernels: finding the library for this processor, loading it when an op first needs it, threads."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

FOLDER = Path(__file__).parent
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

_PROCESS = os.getpid()  # a child by fork has none of the threads of its parent's OpenMP library

_forced: str | None = None  # an instruction set, or "none"
_loaded: dict[str, ctypes.CDLL] = {}
_spaces: list[Tensor] = []
_said = False


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets this processor runs, best first."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return ("arm64",)
    best = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": ("v4", "v3", "base"), "AVX2": ("v3", "base")}.get(best, ("base",))


def _path(name: str) -> Path:
    return FOLDER / f"libexgate_{name}{SUFFIX}"


def usable() -> tuple[str, ...]:
    """The instruction sets that a call may use here, best first: none where the package was installed without them."""
    names = instruction_sets() if _forced is None else (_forced,)
    return tuple(name for name in names if _path(name).exists())


_usable = usable()  # a plain value, which torch.compile can read


def library() -> ctypes.CDLL | None:
    """The library of kernels, loaded at the first call; None where the package was installed without it."""
    if not _usable:
        return None
    if _usable[0] not in _loaded:
        _loaded[_usable[0]] = ctypes.CDLL(str(_path(_usable[0])))
        _lend_threads(_loaded[_usable[0]])
    return _loaded[_usable[0]]


def _lend_threads(library: ctypes.CDLL) -> None:
    """Give the kernels the threads of the OpenMP library that PyTorch has loaded, where there is one (see pool.h)."""
    flag, folder = getattr(os, "RTLD_NOLOAD", None), Path(torch.__file__).parent
    if flag is None or os.getpid() != _PROCESS:
        return
    for path in (*folder.glob("lib/lib*omp*"), *folder.parent.glob("torch.libs/lib*omp*")):
        try:
            openmp = ctypes.CDLL(str(path), mode=flag | os.RTLD_LAZY)
            library.exgate_team(ctypes.cast(openmp.GOMP_parallel, ctypes.c_void_p))
        except (OSError, AttributeError):  # another library than the one in use, or one that works otherwise
            continue
        return


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Use the kernels compiled for `name` inside the block ("v4", "v3", "base", "arm64"), or "none" of them.

    Raises:
        ValueError: this processor does not run `name`, or its library was not built.
    """
    global _forced, _usable
    runs = ("none", *instruction_sets())
    if name not in runs:
        raise ValueError(
            f"instruction set '{name}': this processor runs {', '.join(runs[1:])}. Use one of them, or none."
        )
    if name != "none" and not _path(name).exists():
        raise ValueError(f"instruction set '{name}': there is no {_path(name).name}. Build it: pip install -e .")
    before, _forced = _forced, name
    _usable = usable()
    try:
        yield
    finally:
        _forced = before
        _usable = usable()


def absent() -> str | None:
    """Why there are no kernels, in words; None if there are. The first to ask is told on standard error."""
    global _said
    if _usable:
        return None
    if not torch.compiler.is_compiling() and not _said and _forced is None:
        _said = True
        print("exgate: installed without compiled kernels; plain PyTorch is used, which is slower.", file=sys.stderr)
    return "the compiled kernels are not installed (there was no C++ compiler)"


def refuses(*tensors: Tensor | None) -> str | None:
    """The reasons that every kernel shares: where the tensors are, float64, export, no library."""
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"a tensor is on {tensor.device}, not on the CPU"
        if tensor is not None and tensor.dtype == torch.float64:
            return "the kernels compute in float32, and an input is float64"
    if torch.compiler.is_exporting():
        return "an exported program runs where the kernels may not be"
    return absent()


def saves(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow, for which a kernel has to keep what it needs."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def threads() -> int:
    """How many threads a kernel may use: PyTorch's number, one inside a DataLoader's worker."""
    return 1 if get_worker_info() is not None else torch.get_num_threads()


@contextmanager
def workspace(numbers: int) -> Iterator[Tensor]:
    """At least that many float32 numbers of scratch memory, kept from one call to the next: fresh memory is dear."""
    try:
        space = _spaces.pop()
    except IndexError:  # none, or another thread has it
        space = torch.empty(0, device="cpu")
    if space.numel() < numbers:
        space = torch.empty(numbers, dtype=torch.float32, device="cpu")
    yield space
    if not _spaces:
        _spaces.append(space)


def function(name: str):
    """The C function `name`; `call` suits most."""
    return getattr(library(), name)


def contiguous(*tensors: Tensor | None) -> list[Any]:
    """The tensors without gaps between their numbers; None stays None."""
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def call(name: str, *arguments: int | bytes | Tensor | ctypes.Array | None) -> int:
    """Call the C function `name`: integers as int64, contiguous tensors as addresses, bytes as text, None as null."""
    found = function(name)
    found.restype = ctypes.c_int64
    return found(*(_argument(argument) for argument in arguments))


def _argument(value):
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_int64(value) if isinstance(value, int) else value
