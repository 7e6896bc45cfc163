"""The other end of `worker.py`: one process for each package, asked one thing at a time."""

import json
import select
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.timing import ROOT

ENVIRONMENTS = ROOT / ".bench-gpu"


class Failed(Exception):
    """Why a contender has no number; `late` if it took too long, and would again."""

    def __init__(self, reason: str, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


def interpreter(package: str) -> Path:
    """The Python of the package: mlstm_kernels may need an older Triton (`setup.sh`)."""
    names = (["older"] if package == "mlstm_kernels" else []) + ["current"]
    found = (ENVIRONMENTS / name / "bin" / "python" for name in names)
    return next((path for path in found if path.exists()), Path(sys.executable))


class Processes:
    """Started when first asked; one that dies or is late is ended, and started anew when it is asked again."""

    def __init__(self, dry: bool) -> None:
        self.dry = dry
        self.running: dict[str, subprocess.Popen] = {}

    def ask(self, package: str, do: str, timeout: float, **request: Any) -> Any:
        if package in self.running and self.running[package].poll() is not None:
            self.end(package)
        process, timeout = self.running.get(package) or self.start(package), max(timeout, 1.0)
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], timeout)
            line = process.stdout.readline() if ready else None
        except OSError:
            line = ""
        if not line:
            self.end(package)
            late = line is None
            raise Failed(f"took longer than {timeout:.0f} s" if late else "its process died", late)
        reply = json.loads(line)
        if "failed" in reply:
            raise Failed(reply["failed"])
        return reply["reply"]

    def start(self, package: str) -> subprocess.Popen:
        python = interpreter(package)
        if python == Path(sys.executable) and find_spec(package) is None:
            raise Failed(f"{package} is not installed: bash benchmarks/gpu/setup.sh")
        command = [str(python), "-m", "benchmarks.gpu.worker", package, *(["--dry"] if self.dry else [])]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        if not self.dry:  # what packages and compilers say, the traces of failures among it
            ENVIRONMENTS.mkdir(exist_ok=True)
            pipes["stderr"] = (ENVIRONMENTS / f"{package}.log").open("w")
        self.running[package] = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
        if not self.dry:
            pipes["stderr"].close()  # the process has its own
        return self.running[package]

    def end(self, package: str) -> None:
        process = self.running.pop(package)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what was not sent
                pipe.close()

    def close(self) -> None:
        for package in list(self.running):
            self.end(package)
