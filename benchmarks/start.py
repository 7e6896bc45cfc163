"""How long does `import exgate` take beyond `import torch`? Fresh processes, in turn."""

import subprocess
import sys

from benchmarks.timing import machine, publish, save, sentence, side_by_side


def _import(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True)


def main() -> None:
    found = side_by_side({"torch": lambda: _import("torch"), "exgate": lambda: _import("exgate")}, seconds=60, rounds=9)
    facts = machine()
    beyond = found["exgate"]["median"] - found["torch"]["median"]
    text = (
        f"`import torch` {found['torch']['median']:.0f} ms, `import exgate` {found['exgate']['median']:.0f} ms: "
        f"exgate adds {beyond:.0f} ms (medians of {found['exgate']['rounds']} fresh processes; aim: under 300).\n\n"
        f"{sentence(facts)}"
    )
    save("start", {"machine": facts, "milliseconds": found})
    publish("start", text)
    print(text)


if __name__ == "__main__":
    main()
