"""The command `exgate` itself: what it lists, and how it speaks of mistakes (exgate/cli/__init__.py)."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from exgate import cli
from exgate.models import io

FILES = [file for file in Path(cli.__file__).parent.glob("*.py") if file.stem != "__init__"]
COMMANDS = sorted(file.stem for file in FILES if "\ndef main(" in file.read_text())


def test_help_lists_the_commands(capsys):
    assert {"train", "generate", "evaluate"} <= set(COMMANDS)
    for argv in ([], ["--help"], ["-h"], ["help"]):
        assert cli.main(argv) == 0
        out = capsys.readouterr().out
        for name, line in cli.commands().items():
            assert line.endswith("."), f"the first line of {name}.py is its help"
            assert f"  {name}" in out
            assert line in out
        for name in (*io.names(), *cli.suites()):
            assert re.search(rf"(^  |, ){name}(,|$)", out, re.MULTILINE), f"{name} is listed"
        assert max(map(len, out.splitlines())) <= 120
    assert cli.models() == io.names()
    assert {"formal", "gradient", "extrapolate", "temporal-order"} <= set(cli.suites())
    assert list(cli.commands()) == COMMANDS
    assert "exgate train small" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0
    assert f"exgate {name}" in capsys.readouterr().out.split("options", 1)[0]


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert "there is no command 'trian'" in (err := capsys.readouterr().err)
    assert "Did you mean 'train'?" in err
    assert cli.main(["recipe"]) == 2, "a file without main is no command"


@pytest.mark.parametrize(
    "error, words, status",
    [
        (ValueError("train: a sentence [with] brackets"), "train: a sentence [with] brackets\n", 2),
        (FileNotFoundError("data: no such thing"), "data: no such thing\n", 2),
        (ImportError("exgate: needs more"), "exgate: needs more\n", 2),
        (FloatingPointError("the loss is nan"), "the loss is nan\n", 2),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "exgate: a/b: No space left on device.\n", 2),
        (PermissionError(errno.EACCES, "Permission denied"), "exgate: Permission denied.\n", 2),
        (KeyboardInterrupt(), "exgate: stopped by Ctrl-C.\n", 130),
    ],
)
def test_mistakes_are_one_sentence(error, words, status, capsys, monkeypatch):
    def main(argv):
        raise error

    monkeypatch.setitem(sys.modules, "exgate.cli.train", types.SimpleNamespace(main=main))
    assert cli.main(["train"]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", words)


def test_bugs_are_not_hidden(monkeypatch):
    def main(argv):
        raise RuntimeError("a bug")

    monkeypatch.setitem(sys.modules, "exgate.cli.train", types.SimpleNamespace(main=main))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def test_as_a_process(tmp_path):
    root = Path(cli.__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "exgate", "train", "no-such-recipe"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("recipe: there is no recipe file or run folder 'no-such-recipe'")
    assert result.stderr.count("\n") == 1
