"""How do time and memory grow: over steps, over the batch, over threads? Forward and backward of the cells.

    python -m benchmarks.growth [--quick] [--seconds N] [--only steps|batch|threads]

Memory is the peak above the inputs, in a process of its own whose allocator gives back what is freed. Threads are
compared between processes with one and with two, in turn.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
from functools import partial

import torch

from benchmarks import contenders, timing

# T or B -> contenders: sLSTM at H = 256, mLSTM at K = V = 128, both with 4 heads.
CELLS = {"sLSTM": partial(contenders.slstm, 256), "mLSTM": lambda b, t, names: contenders.mlstm(b, t, 128, names)}
NAMES = {
    "sLSTM": ("cpu", "eager", "nn.LSTM", "xlstm"),
    "mLSTM": ("cpu", "eager", "native_custbw", "SDPA", "xlstm parallel"),
}
BATCH = {"sLSTM": 8, "mLSTM": 1}  # of the growth over steps
STEPS = (256, 1024, 4096, 16384, 65536)
PATIENCE = 8e3  # milliseconds: a contender is left out where its call should take longer
THREADS = {
    "sLSTM 256, 8, 256": partial(contenders.slstm, 256, 8, 256),
    "sLSTM 256, 32, 256": partial(contenders.slstm, 256, 32, 256),
    "sLSTM 1024, 8, 256": partial(contenders.slstm, 1024, 8, 256),
    "mLSTM 8, 1024, 128": partial(contenders.mlstm, 8, 1024, 128),
}


def steps(options) -> dict:
    """Milliseconds and megabytes over T, as far as a contender stays patient."""
    cells = {}
    for cell, names in NAMES.items():
        found = _times(cell, STEPS[:2] if options.quick else STEPS, options.seconds)
        _give_back()
        for name in names:
            if name != "xlstm":  # it takes its time, not its memory
                found[name]["megabytes"] = _apart("--memory", cell, name, *map(str, found[name]["T"]))
            print(".", end="", flush=True)
        cells[cell] = found
    return {"cells": cells}


def _times(cell: str, sizes: tuple[int, ...], seconds: float) -> dict[str, dict]:
    found: dict[str, dict] = {name: {"T": [], "milliseconds": []} for name in NAMES[cell]}
    for size in sizes:
        able = tuple(name for name in found if name == "cpu" or _expected(found[name]) < PATIENCE)
        if not _fits(BATCH[cell], size):
            break
        makes = CELLS[cell](BATCH[cell], size, able)
        spans = timing.side_by_side({name: makes[name].both for name in able}, seconds=seconds, rounds=5)
        for name in able:
            found[name]["T"].append(size)
            found[name]["milliseconds"].append(spans[name]["median"])
        print(".", end="", flush=True)
    return found


def _expected(found: dict) -> float:
    """Milliseconds at the next T, which is four times the last: by the growth so far, at least four times."""
    spans = found["milliseconds"]
    return spans[-1] * max(4, spans[-1] / spans[-2] if len(spans) > 1 else 4) if spans else 0.0


def _fits(batch: int, size: int) -> bool:
    """Whether the largest of these calls, about 20 KB for a step of a row, leaves a third of the memory alone."""
    with open("/proc/meminfo") as lines:
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return 20 * batch * size < 0.67 * (free + _status("VmRSS"))  # in KB; what this process keeps is used again


def _give_back() -> None:
    """Return freed memory to the system, as the allocator's setting does not: the next process needs it."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def batch(options) -> dict:
    """Milliseconds over the batch: sLSTM at T = 256, mLSTM at T = 1024."""
    sizes, cells = (1, 4) if options.quick else (1, 2, 4, 8, 16, 32, 64), {}
    for cell, names in (("sLSTM", ("cpu", "eager", "nn.LSTM")), ("mLSTM", ("cpu", "eager", "native_custbw"))):
        found: dict[str, dict] = {name: {"B": [], "milliseconds": []} for name in names}
        for size in sizes:
            makes = CELLS[cell](size, 256 if cell == "sLSTM" else 1024, names)
            calls = {name: makes[name].both for name in names}
            for name, span in timing.side_by_side(calls, seconds=options.seconds / 2, rounds=5).items():
                found[name]["B"].append(size)
                found[name]["milliseconds"].append(span["median"])
        cells[cell] = found
        print(".", end="", flush=True)
    return {"cells": cells}


def threads(options) -> dict:
    """Milliseconds of the native cells with one thread and with two, three processes each."""
    runs: dict[int, list] = {1: [], 2: []}
    for _ in range(1 if options.quick else 3):
        for count, found in runs.items():
            found.append(_apart("--threads", str(count), str(options.seconds / 4)))
            print(".", end="", flush=True)
    cases = {
        case: {
            kind: {str(count): statistics.median(one[case][kind] for one in found) for count, found in runs.items()}
            for kind in ("forward", "both")
        }
        for case in THREADS
    }
    return {"cases": cases}


def _apart(*arguments: str):
    """What `child` prints in a process of its own."""
    environment = dict(os.environ)
    if arguments[0] == "--memory":  # every freed block goes back to the system, so that the next peak is seen
        environment = {name: value for name, value in environment.items() if not name.startswith("MALLOC_")}
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=timing.ROOT)
    return json.loads(found.stdout.splitlines()[-1])


def child(question: str, *arguments: str) -> None:
    """Runs in a fresh process: `--threads COUNT SECONDS` or `--memory CELL NAME T...`; prints JSON."""
    if question == "--threads":
        torch.set_num_threads(int(arguments[0]))
        found = {}
        for case, make in THREADS.items():
            one = make(("cpu",))["cpu"]
            calls = {"forward": one.forward, "both": one.both}
            spans = timing.side_by_side(calls, seconds=float(arguments[1]), rounds=15)
            found[case] = {kind: span["median"] for kind, span in spans.items()}
        print(json.dumps(found))
    else:
        torch.set_num_threads(1)
        cell, name, *sizes = arguments
        CELLS[cell](1, 128, (name,))[name].both()  # what libraries allocate once is not the call's
        print(json.dumps([_peak(cell, name, int(size)) for size in sizes]))


def _peak(cell: str, name: str, size: int) -> float:
    """Megabytes above the inputs, forward and backward, in this process. Linux only."""
    call = CELLS[cell](BATCH[cell], size, (name,))[name].both
    before = _status("VmRSS")
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the high-water mark starts anew
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    if sys.argv[1:2] in (["--threads"], ["--memory"]):
        child(*sys.argv[1:])
    else:
        timing.main(__doc__, {"steps": steps, "batch": batch, "threads": threads})
