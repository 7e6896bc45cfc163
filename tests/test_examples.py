"""Every program in examples/ runs, with few steps, and says what it promises to."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from exgate.data import parallel

FOLDER = Path(__file__).resolve().parent.parent / "examples"
# The arguments that make each short, and a pattern of what it prints.
PROGRAMS = {
    "parity.py": (["--steps", "3"], r"50 to 100 bits: \d"),
    "stream.py": ([], r"largest difference is \d\.\de-0[5-9]"),
    "language_model.py": (["--steps", "20"], r"step 20: [2-6]\.\d\d bits per byte\nThe "),
    "translate.py": (["--demo", "--pairs", "96", "--epochs", "1", "--beam", "2"], r"\d+ of \d+ test sentences"),
    "phonemes.py": (["--utterances", "10", "--epochs", "1", "--hidden", "8"], r"both: \d+\.\d% of frames"),
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


def test_a_translation_is_known_by_its_text(monkeypatch, capsys, tmp_path):
    for name, count in {"train": 64, "val": 8, "test_a": 4, "test_b": 4}.items():
        for side, words in zip(("de", "en"), zip(*parallel.number_pairs(count), strict=True), strict=True):
            (tmp_path / f"{name}.{side}").write_text("\n".join(words))

    def run(*more: str) -> str:
        words = ["--vocab", "300", "--dim", "8", "--hidden", "8", "--epochs", "1", "--beam", "1", *more]
        monkeypatch.setattr(sys, "argv", ["translate.py", str(tmp_path), *words, "--save", str(tmp_path / "model")])
        runpy.run_path(str(FOLDER / "translate.py"), run_name="__main__")
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match=r"translate: .*several files .* Give a whole name"):
        run()
    assert "of 4 test sentences" in run("--test", "test_a")
    assert "going on after epoch 1" in run("--test", "test_b"), "the weights do not depend on the test set"
    (tmp_path / "val.de").write_text("one\n" * 8)
    with pytest.raises(SystemExit, match="holds a run with other options or another text"):
        run("--test", "test_a")


def test_translation_goes_on_where_it_was_stopped(monkeypatch, capsys, tmp_path):
    words = ["--demo", "--pairs", "96", "--epochs", "2", "--beam", "1", "--save"]

    def told(folder: str, epochs: int | None = None) -> list[str]:
        program = runpy.run_path(str(FOLDER / "translate.py"))
        if epochs is not None:  # stopped after so many
            save = program["checkpoint"].save

            def once(*args, **kwargs):
                save(*args, **kwargs)
                if args[1] == epochs:
                    raise KeyboardInterrupt

            monkeypatch.setattr(program["checkpoint"], "save", once)
        monkeypatch.setattr(sys, "argv", ["translate.py", *words, str(tmp_path / folder)])
        try:
            program["main"]()
        except KeyboardInterrupt:
            monkeypatch.undo()
        return [re.sub(r", [\d.]+ min", "", line) for line in capsys.readouterr().out.splitlines()]

    whole = told("whole")
    stopped = told("cut", epochs=1)
    rest = told("cut")
    assert stopped == whole[: len(stopped)]
    assert rest[1] == "going on after epoch 1"
    assert rest[2:] == whole[len(stopped) :]
    monkeypatch.setattr(sys, "argv", ["translate.py", *words[:-1], "--lr", "1", "--save", str(tmp_path / "whole")])
    with pytest.raises(SystemExit, match="holds a run with other options"):
        runpy.run_path(str(FOLDER / "translate.py"), run_name="__main__")
