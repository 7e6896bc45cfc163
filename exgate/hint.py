"""For whoever mistyped a name: the right one that is most like it."""

import difflib
from collections.abc import Iterable
from pathlib import Path

LIKENESS = 0.4  # of difflib: 0 for nothing in common, 1 for the same


def unknown(key: str, known: Iterable[str], *, what: str = "field") -> str:
    """The sentence for a wrong name: it says the nearest right one, or all of them."""
    return f"unknown {what} '{key}'. {near(key, known)}"


def near(key: str, known: Iterable[str]) -> str:
    """The second half of it."""
    known = list(known)
    found = difflib.get_close_matches(key, known, n=1, cutoff=LIKENESS)
    return f"Did you mean '{found[0]}'?" if found else f"There are: {', '.join(known)}."


def beside(path: Path, *more: str) -> Path | None:
    """What is most like a path that is not there, of the names in its folder and `more`."""
    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    found = difflib.get_close_matches(path.name, [*more, *names], n=1)
    return path.parent / found[0] if found else None
