"""Every program in examples/ runs, with few steps, and says what it promises to."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
# The arguments that make each short, and a pattern of what it prints.
PROGRAMS = {
    "parity.py": (["--steps", "3"], r"50 to 100 bits: \d"),
    "stream.py": ([], r"largest difference is \d\.\de-0[5-9]"),
    "language_model.py": (["--steps", "20"], r"step 20: [2-6]\.\d\d bits per byte\nThe "),
    "translate.py": (["--demo", "--pairs", "96", "--epochs", "1", "--beam", "2"], r"\d+ of \d+ test sentences"),
    "phonemes.py": (["--utterances", "40", "--epochs", "1", "--hidden", "8"], r"both: \d+\.\d% of frames"),
    "weights.py": ([], r"xlstm_7b, [\d,]+ parameters"),
}


def test_every_example_is_tested():
    assert {path.name for path in FOLDER.glob("*.py")} == set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments, pattern = PROGRAMS[name]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert re.search(pattern, capsys.readouterr().out)
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
    assert name in (FOLDER / name).read_text().split('"""')[1], "the docstring says how to run it"
