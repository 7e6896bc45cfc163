"""Runs that are done once: a file of results for each configuration, several computed at a time."""

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

# Raised whenever the same configuration would give other numbers: results of before are then not found.
VERSION = 1


def file(folder: Path, configuration: dict[str, Any]) -> Path:
    """Where the result of a configuration is kept."""
    text = json.dumps([VERSION, configuration], sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def read(folder: Path, configuration: dict[str, Any]) -> dict[str, Any] | None:
    """The kept result; None if there is none, or it is another configuration's or damaged."""
    try:
        kept = json.loads(file(folder, configuration).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(kept, dict) and kept.get("configuration") == json.loads(json.dumps(configuration))
    return kept["result"] if same else None


def results(
    configurations: Sequence[dict[str, Any]], compute: Callable[[dict[str, Any]], dict[str, Any]], *,
    folder: Path, processes: int = 1,
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:  # fmt: skip
    """Each configuration and its result, as they are ready: kept ones first, then those that are computed and kept.

    Args:
        compute: of one configuration; with several processes it must be importable (a function of a module, or a
            `functools.partial` of one).
        processes: at a time, one thread each. Stopping (Ctrl-C, a kill) loses no more than what is being computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = []
    for configuration in configurations:
        kept = read(folder, configuration)
        if kept is None:
            missing.append(configuration)
        else:
            yield configuration, kept
    if processes == 1 or len(missing) < 2:
        for configuration in missing:
            yield configuration, _computed(configuration, compute, folder)
        return
    # Started anew, not forked: a fork of a process whose OpenMP has run may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(missing)), context, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = {pool.submit(_computed, configuration, compute, folder): configuration for configuration in missing}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def write(path: Path, content: Any) -> None:
    """JSON, whole or not at all; what is not finite becomes null."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(finite(content), stream, indent=2, ensure_ascii=False, allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """The same, with None for every number that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _computed(configuration: dict[str, Any], compute: Callable, folder: Path) -> dict[str, Any]:
    result = finite(compute(configuration))
    write(file(folder, configuration), {"configuration": configuration, "result": result})
    return result
