"""How long does `import exgate` take beyond `import torch`? Fresh processes, in turn.

python -m benchmarks.start [--quick]
"""

import subprocess
import sys

from benchmarks import timing


def start(options) -> dict:
    calls = {name: lambda name=name: _import(name) for name in ("torch", "exgate")}
    return {"milliseconds": timing.side_by_side(calls, seconds=60, rounds=3 if options.quick else 9)}


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True)


if __name__ == "__main__":
    timing.main(__doc__, {"start": start})
