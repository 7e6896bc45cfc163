"""Timings that can be compared: contenders take turns in one process, and medians with their spread are kept."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


def side_by_side(contenders: dict[str, Callable[[], object]], *, seconds: float = 8.0, rounds: int = 9) -> dict:
    """Median, fastest and slowest milliseconds of each contender, called in turn for about `seconds` in all.

    Each is called once before the clock starts. At least three rounds, at most `rounds`.
    """
    spans: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    begin = time.perf_counter()
    for turn in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            spans[name].append(1e3 * (time.perf_counter() - start))
        if turn >= 2 and time.perf_counter() - begin > seconds:
            break
    return {
        name: {"median": statistics.median(found), "min": min(found), "max": max(found), "rounds": len(found)}
        for name, found in spans.items()
    }


def machine() -> dict:
    """What the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "allocator": allocator or "glibc's defaults",
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return found.stdout.strip()


def sentence(facts: dict) -> str:
    allocator = facts["allocator"]
    if isinstance(allocator, dict):
        allocator = " ".join(f"{name}={value}" for name, value in allocator.items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} thread(s), load {facts['load']:.1f} before, "
        f"allocator {allocator}, Python {facts['python']}, torch {facts['torch']}, commit {facts['commit']}."
    )


def save(name: str, result: dict) -> None:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def publish(name: str, text: str) -> None:
    """Replace the part `name` of docs/benchmarks.md, which stands between two comments."""
    path = ROOT / "docs" / "benchmarks.md"
    page = path.read_text()
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(
            f"docs/benchmarks.md has no part '{begin}' ... '{end}': write the two comments where it belongs."
        )
    head, rest = page.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
