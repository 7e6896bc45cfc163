"""Runs that are done once: a line of `runs.jsonl` for each configuration and its result, several computed at a time."""

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from exgate import files

# Raised whenever the same configuration would give other numbers: results of before are then not found.
VERSION = 5
DIGITS = 6  # of the numbers that are kept


def key(configuration: dict[str, Any]) -> str:
    """The name of a configuration: the same for equal ones, whatever the order of their fields."""
    text = json.dumps([VERSION, configuration], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The kept results by `key`. A line that is damaged, as the last one is after a kill, counts as not there."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            kept = json.loads(line)
            if kept["key"] == key(kept["configuration"]):
                found[kept["key"]] = kept["result"]
        except (ValueError, TypeError, KeyError):
            continue
    return found


def results(
    configurations: Sequence[dict[str, Any]], compute: Callable[[dict[str, Any]], dict[str, Any]], *,
    file: Path, processes: int = 1,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:  # fmt: skip
    """Each configuration and its result, as they are ready: kept ones first, then those that are computed and kept.

    Args:
        compute: of one configuration; with several processes it must be importable (a function of a module, or a
            `functools.partial` of one).
        file: JSON lines, to which results are added.
        processes: at a time, one thread each. Stopping (Ctrl-C, a kill) loses no more than what is being computed.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    kept, missing = read(file), []
    for configuration in configurations:
        if (name := key(configuration)) in kept:
            yield configuration, kept[name]
        else:
            missing.append(configuration)
    if processes == 1 or len(missing) < 2:
        for configuration in missing:
            yield configuration, _kept(file, configuration, compute(configuration))
        return
    # Started anew, not forked: a fork of a process whose OpenMP has run may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(missing)), context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = {pool.submit(compute, configuration): configuration for configuration in missing}
        for future in as_completed(waiting):
            yield waiting[future], _kept(file, waiting[future], future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def write(path: Path, content: Any) -> None:
    """JSON, or text as it is, whole or not at all; what is not finite becomes null."""
    text = content if isinstance(content, str) else json.dumps(finite(content), indent=2, ensure_ascii=False)
    files.write(path, f"{text}\n")


def finite(value: Any) -> Any:
    """The same, with None for every number that JSON cannot say."""
    return _mapped(lambda number: number if math.isfinite(number) else None, value)


def _mapped(function: Callable[[float], float | None], value: Any) -> Any:
    """The same nesting with `function` applied to every float."""
    if isinstance(value, dict):
        return {name: _mapped(function, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(function, part) for part in value]
    return function(value) if isinstance(value, float) else value


def _kept(file: Path, configuration: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    result = _mapped(lambda number: float(f"{number:.{DIGITS}g}"), finite(result))
    line = json.dumps({"key": key(configuration), "configuration": configuration, "result": result})
    with open(file, "a+b") as stream:
        # Behind a line that a kill cut off there is no end of line.
        torn = stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n"
        stream.write(b"\n" * bool(torn) + line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return result
