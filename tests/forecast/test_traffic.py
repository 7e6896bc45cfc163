"""The help of examples/traffic.py; what it does is in tests/test_examples.py."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich")
PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "traffic.py"


@pytest.mark.parametrize(("command", "names"), [("sensors", ("SPEEDS", "GRAPH")), ("road", ("VOLUME",))])
def test_help_names_the_files(command, names):
    run = subprocess.run([sys.executable, str(PROGRAM), command, "--help"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert all(name in run.stdout for name in names)
