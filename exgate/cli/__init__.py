"""The command line: `exgate COMMAND ...`. The commands are the files of this folder that define `main`.

A command file's docstring is its help: the first line is the line in `exgate --help`, the rest holds an example.
Its `main(argv: list[str]) -> int | None` parses the words that follow the command's name and returns the exit status.
Listing the commands reads the files and imports none of them; running one imports that one alone.
"""

import ast
import os
import sys
import textwrap
from importlib import import_module
from pathlib import Path

from exgate import hint

HELP = """\
exgate: LSTM, sLSTM and mLSTM language models and forecasts, from the command line.

usage: exgate COMMAND [arguments]

commands:
{commands}

models (the files of exgate/models/):
{models}

suites of `exgate evaluate SUITE`, which compare them on tasks (the files of exgate/evaluate/):
{suites}

examples:
  exgate train small                      train a small xLSTM on CPython's own manual, a few minutes on two cores
  exgate generate runs/small "The import" read what it writes
  exgate evaluate formal                  who can track a state, count, keep a stack
  exgate forecast sales.csv --horizon 28  what comes next in your own series, with intervals
  exgate COMMAND --help                   the arguments of one command, with examples
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, or 2 with one sentence on stderr for the caller's mistakes.

    Args:
        argv: the words after `exgate`; None takes them from the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max((len(name) for name in known), default=0)
        lines = "\n".join(f"  {name:<{width}}  {line}" for name, line in known.items())
        listed = {name: wrapped(files) for name, files in (("models", models()), ("suites", suites()))}
        print(HELP.format(commands=lines, **listed), end="")
        return 0
    if argv[0] == "--version":
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"exgate {version('exgate')}")
        except PackageNotFoundError:
            print("exgate (not installed: run from its folder)")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in known:
        return complain(f"exgate: there is no command '{name}'. {hint.near(name, known)}")
    try:
        return import_module(f"exgate.cli.{name}").main(rest) or 0
    except BrokenPipeError:
        # The reader of our output (head, less) has gone: nothing is wrong, and nobody is left to tell.
        # A null stdout keeps Python from complaining once more when it flushes at exit.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except KeyboardInterrupt:
        return complain("exgate: stopped by Ctrl-C.", status=130)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return complain(sentence(error))


def commands() -> dict[str, str]:
    """Name and first docstring line of each command file, in the order of their names, found without importing them."""
    found = {}
    for file in _files("cli"):
        if file.stem != "__init__" and "main" in _defined(file):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def models() -> list[str]:
    """The architectures: the files of exgate/models/ that define a Config, found without importing them."""
    return [file.stem for file in _files("models") if "Config" in _defined(file)]


# Suites with options of their own, and the file of this folder that has them.
OWN = {"extrapolate": "extrapolation", "forecast": "longterm", "m4": "m4"}


def suites() -> list[str]:
    """The suites: the files of exgate/evaluate/ that define `suite`, and what has a command of its own."""
    files = [file.stem for file in _files("evaluate") if "suite" in _defined(file)]
    return sorted(name.replace("_", "-") for name in [*files, *OWN, "gradient"])


def wrapped(names: list[str]) -> str:
    """Names with commas between them, in lines that fit a terminal."""
    return textwrap.fill(", ".join(names), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _files(folder: str) -> list[Path]:
    return sorted((Path(__file__).parent.parent / folder).glob("*.py"))


def _defined(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def sentence(error: BaseException) -> str:
    """The words of an error: its message, and for a bare operating-system error the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"exgate: {error.filename}: {error.strerror}." if error.filename else f"exgate: {error.strerror}."
    return str(error) or type(error).__name__


def complain(message: str, *, status: int = 2) -> int:
    """Prints a message on stderr, red on a terminal, and returns the exit status."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(message, style="red", markup=False)
    return status
