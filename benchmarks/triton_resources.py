"""What does every shipped Triton kernel need: registers, shared memory, tensor cores; does it spill? Without a GPU.

    python -m benchmarks.triton_resources [--quick] [--targets sm_90 ...] [--only OP ...] [--all]

The launches of `benchmarks/triton_cases.py` are recorded for each target and compiled by Triton's own just-in-time
path, whose driver says that the target is there; so types, specialised numbers and options are those of a launch.
NVIDIA's numbers are the assembler's own words, AMD's stand in the metadata of its assembly. Status 1 if something
spills, exceeds what a block may have of shared memory, or does not compile.
"""

import argparse
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.timing import ROOT, machine

RESULTS = ROOT / "docs" / "results" / "gpu"
TARGETS = ("sm_80", "sm_90", "gfx942")
TENSOR_CORES = re.compile(r"\b(?:wgmma\.mma_async|mma\.sync|v_s?mfma_\w+)")
OPERAND = re.compile(r"b?f16|tf32|f64|f32")


@dataclass(frozen=True)
class Job:
    """A kernel to be compiled: its module and name, its arguments (types in place of tensors), constants, options."""

    target: str
    module: str
    name: str
    arguments: tuple[Any, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]


@dataclass
class Row:
    """What a compiled kernel needs. `cases` says who launches it; with an `error` nothing else is known."""

    target: str
    kernel: str
    cases: list[dict[str, str]] = field(default_factory=list)
    constants: dict[str, str] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)
    registers: int = 0
    spill: int = 0  # bytes stored and loaded (NVIDIA), registers spilt (AMD)
    stack: int = 0  # bytes
    shared: int = 0  # bytes
    tensor_cores: str = ""  # how many instructions in the text, and of which kind
    seconds: float = 0.0
    error: str = ""

    def faults(self) -> list[str]:
        """What must not be in a shipped kernel."""
        limit = target(self.target).shared
        found = [self.error] if self.error else []
        found += [f"spills {self.spill} {'registers' if target(self.target).kind == 'hip' else 'bytes'}"] * bool(
            self.spill
        )
        return found + ([f"{self.shared} bytes of shared memory of {limit}"] if self.shared > limit else [])


class Driver:
    """What Triton asks its driver before it compiles; this one has no device."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        found = target(self.name)
        return GPUTarget(found.kind, found.arch, 64 if found.kind == "hip" else 32)

    def get_current_device(self) -> "Driver":  # what Triton keeps compiled kernels by: none is taken for another
        return self

    def get_current_stream(self, device: Any = None) -> int:
        return 0


def target(name: str) -> Any:
    from exgate.ops import gpu

    return {"sm_80": gpu.SM80, "sm_90": gpu.SM90, "gfx942": gpu.GFX942}[name]


def record(names: Iterable[str], cases: Iterable[Any]) -> dict[Job, list[dict[str, str]]]:
    """The different kernels that the cases launch on each target, and which cases they are."""
    from exgate.ops import gpu

    jobs: dict[Job, list[dict[str, str]]] = defaultdict(list)
    cases = list(cases)
    for name in names:
        for case in cases:
            with gpu.recording(target(name)) as launches:
                case.call()
            label = {part: getattr(case, part) for part in ("op", "size", "kind", "variant")}
            for launch in launches:
                cases_of = jobs[job(name, launch)]
                cases_of.extend([label] if label not in cases_of else [])
    return dict(jobs)


def job(name: str, launch: Any) -> Job:
    kernel = launch.kernel
    arguments = (_alike(x, p.do_not_specialize) for x, p in zip(launch.arguments, kernel.params, strict=False))
    return Job(
        name,
        kernel.fn.__module__,
        kernel.fn.__name__,
        tuple(arguments),
        tuple(sorted(launch.constants.items())),
        tuple(sorted(launch.options.items())),
    )


def _alike(argument: Any, unspecialized: bool) -> Any:
    """The same for all arguments that Triton compiles alike: a tensor's type; whether a number is 1, or divided by 16.

    A tensor is taken to begin at a multiple of 16 bytes, as PyTorch's allocator gives it.
    """
    if hasattr(argument, "data_ptr"):
        return argument.dtype
    if isinstance(argument, float):
        return 0.5
    if isinstance(argument, bool) or not isinstance(argument, int):
        return argument
    small = 3 if unspecialized else 1 if argument == 1 else 16 if argument % 16 == 0 else 3
    return small if -(2**31) <= argument < 2**31 else small + 2**32


@contextmanager
def alone() -> Iterator[None]:
    """Triton without its cache, its assembler's report on, and fused multiply-add as today's default."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TRITON_CACHE_DIR": folder, "TRITON_ALWAYS_COMPILE": "1"}
        os.environ |= {"TRITON_DUMP_PTXAS_LOG": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
        yield


def compiled(job: Job) -> tuple[Any, str]:
    """Triton's kernel, and what the assembler said."""
    from triton.runtime import driver

    driver.set_active(Driver(job.target))
    kernel, said = getattr(import_module(job.module), job.name), io.StringIO()
    with redirect_stdout(said):
        found = kernel.warmup(*job.arguments, grid=(1,), **dict(job.constants), **dict(job.options))
    return found, said.getvalue()


def measure(job: Job) -> Row:
    row = Row(job.target, job.name, options=dict(job.options))
    row.constants = {name: str(value) for name, value in job.constants}
    begin = time.perf_counter()
    try:
        found, said = compiled(job)
    except Exception as error:
        words = str(error).strip() or type(error).__name__
        row.error = f"does not compile: {words.splitlines()[-1][:200]}"
        return row
    row.seconds = round(time.perf_counter() - begin, 2)
    row.shared = found.metadata.shared
    text = found.asm.get("ptx") or found.asm["amdgcn"]
    row.tensor_cores = _tensor_cores(text)
    if "ptx" in found.asm:
        row.registers = _number(said, r"Used (\d+) registers")
        row.spill = _number(said, r"(\d+) bytes spill stores") + _number(said, r"(\d+) bytes spill loads")
        row.stack = _number(said, r"(\d+) bytes stack frame")
    else:
        row.registers = _number(text, r"\.vgpr_count:\s*(\d+)")
        row.spill = _number(text, r"\.vgpr_spill_count:\s*(\d+)")
        row.stack = _number(text, r"\.private_segment_fixed_size:\s*(\d+)")
    return row


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no '{pattern}' in what this Triton's assembler says: adapt benchmarks/triton_resources.py")
    return int(found[1])


def _tensor_cores(text: str) -> str:
    """As "24 wgmma bf16": the instructions in the text, not how often they run."""
    counts: dict[str, int] = defaultdict(int)
    for line in text.splitlines():
        if found := TENSOR_CORES.search(line):
            kind = "wgmma" if "wgmma" in found[0] else "mfma" if "mfma" in found[0] else "mma"
            operand = OPERAND.findall(line.split("(")[0].split(" v[")[0].split(" a[")[0])
            counts[f"{kind} {operand[-1 if kind == 'mfma' else len(operand) // 2]}"] += 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def table(rows: list[Row], names: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Per kernel, size and type the most that any variant needs on each target.

    Kernels without tensor cores have one line for all sizes and types.
    """
    cells: dict[tuple, list[Row]] = defaultdict(list)
    products = {(case["op"], row.kernel) for row in rows for case in row.cases if row.tensor_cores}
    order = list(dict.fromkeys((case["op"], case["size"], case["kind"]) for row in rows for case in row.cases))
    keys = set()
    for row in rows:
        for case in row.cases:
            op, small = case["op"], (case["op"], row.kernel) not in products
            place = len(order) if small else order.index((op, case["size"], case["kind"]))
            size, kind = ("all", "all") if small else (case["size"], case["kind"])
            key = (order.index(next(one for one in order if one[0] == op)), place, row.kernel, op, size, kind)
            keys.add(key)
            cells[key, row.target].append(row)
    names = list(names)
    header = ["op", "kernel", "size", "type", *(f"{name}: registers, kB shared, tensor cores" for name in names)]
    lines = [
        [op, kernel.strip("_"), size, kind, *(_cell(cells[key, name]) for name in names)]
        for key in sorted(keys)
        for *_, kernel, op, size, kind in [key]
    ]
    return header, lines


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    if faults := [row.faults() for row in sorted(rows, key=lambda row: row.spill) if row.faults()]:
        return f"**{'; '.join(faults[-1])}**"
    worst = max(rows, key=lambda row: row.registers)
    warps = "/".join(map(str, sorted({row.options["num_warps"] for row in rows})))
    units = " ".join(sorted({part.split(" ", 1)[1] for row in rows for part in row.tensor_cores.split(", ") if part}))
    shared = max(row.shared for row in rows) / 1024
    return f"{worst.registers} x {warps} warps, {shared:.0f}, {units or 'none'}"


def report(rows: list[Row], names: list[str], everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200)
    shown = Table(box=None, header_style="bold")
    if everything:
        header = ["target", "kernel", "constants", "warps", "stages", "registers", "spill", "stack", "shared",
                  "tensor cores", "s", "cases"]  # fmt: skip
        lines = [_everything(row) for row in rows]
    else:
        header, lines = table(rows, names)
    for name in header:
        shown.add_column(name, overflow="fold")
    for line in lines:
        shown.add_row(*line)
    console.print(shown)
    for row in rows:
        for fault in row.faults():
            print(f"{row.target} {row.kernel} {row.constants} {row.options}: {fault}, in {row.cases[0]}")


def _everything(row: Row) -> list[str]:
    constants = " ".join(f"{name}={value}" for name, value in row.constants.items())
    numbers = (row.options["num_warps"], row.options["num_stages"], row.registers, row.spill, row.stack, row.shared)
    cases = "; ".join(" ".join(filter(None, case.values())) for case in row.cases[:2])
    more = f" and {len(row.cases) - 2} more" if len(row.cases) > 2 else ""
    return [row.target, row.kernel, constants, *map(str, numbers), row.tensor_cores or row.error, f"{row.seconds:.1f}",
            cases + more]  # fmt: skip


def rows(jobs: dict[Job, list[dict[str, str]]], processes: int = 2) -> list[Row]:
    """Every job compiled, in processes that are copies of this one."""
    with alone(), multiprocessing.get_context("fork").Pool(processes) as pool:
        found = []
        for row in pool.imap(measure, jobs):
            found.append(row)
            if len(found) % 50 == 0:
                print(f"{len(found)} of {len(jobs)} kernels", file=sys.stderr, flush=True)
    for row, cases in zip(found, jobs.values(), strict=True):
        row.cases = cases
    return found


def load(path: Path | None = None) -> list[Row]:
    """What the last whole run found."""
    kept = json.loads((path or RESULTS / "resources.json").read_text())
    return [Row(**row) for row in kept["rows"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sm_90 and a handful of kernels, nothing written")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="these alone, nothing written")
    parser.add_argument("--only", nargs="+", metavar="OP", help="the kernels of these ops alone, nothing written")
    parser.add_argument("--all", action="store_true", help="print every configuration, not the most of each kernel")
    options = parser.parse_args()
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("Triton was imported with its interpreter on: start this by itself")
    os.environ.pop("TRITON_INTERPRET", None)  # with it on, kernels are no kernels
    from benchmarks.triton_cases import cases

    facts, begin = machine(), time.perf_counter()  # the commit of what is imported here
    names = options.targets or (["sm_90"] if options.quick else list(TARGETS))
    chosen = [case for case in cases(options.quick) if not options.only or case.op in options.only]
    jobs = record(names, chosen)
    found = rows(jobs)
    report(found, names, options.all)
    bad = sum(bool(row.faults()) for row in found)
    seconds = round(time.perf_counter() - begin)
    print(f"{len(found)} kernels from {len(chosen)} calls on {', '.join(names)}, {bad} with faults, {seconds} s")
    if not (options.quick or options.targets or options.only):
        import triton

        facts = {"machine": {**facts, "triton": triton.__version__}, "seconds": seconds}
        RESULTS.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(asdict(row)) for row in found)  # a kernel a line
        head = json.dumps({**facts, "rows": []}).removesuffix("]}")
        (RESULTS / "resources.json").write_text(f"{head}\n{lines}\n]}}\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
