"""Documents from files, folders, archives, standard input, data sets or CPython's manual, and their split in two."""

import bz2
import glob
import gzip
import hashlib
import json
import lzma
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from exgate import hint

Document = tuple[str, str]  # its name, its text
BUILT_IN = "python-manual"
ERRORS = ("strict", "replace", "ignore")
_OPEN = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def documents(sources: str | Sequence[str], *, errors: str = "strict") -> Iterator[Document]:
    """Name and text of every document of the sources, in a fixed order: as given, folders and globs sorted.

    A source is one of
        a file: one document; `.jsonl`: one document a line, in the field "text"; `.gz`, `.bz2`, `.xz` are unpacked;
        a folder: its text files, and those of its folders (hidden ones and binary files are passed over);
        a glob, such as `books/**/*.txt`;
        "-": standard input, one document;
        "hf:NAME[:COLUMN[:SPLIT]]": a Hugging Face data set, one document a row, by default column "text" of "train";
        "python-manual": the topics of the language reference that CPython carries, one document a topic.

    Args:
        errors: what happens to bytes that are not UTF-8: "strict" is an error that names the place, "replace" puts
            U+FFFD in their place, "ignore" drops them.
    Raises:
        FileNotFoundError: a file or folder is not there; the message names the nearest one that is.
        ValueError: a source holds no text, is not text, or the policy has another name.
    """
    if errors not in ERRORS:
        raise ValueError(f"data: errors={errors!r} is not a policy for undecodable text; choose one of {ERRORS}")
    sources = [sources] if isinstance(sources, str) else list(sources)
    if not sources:
        raise ValueError(f"data: no source of text given; name a file or folder, or '{BUILT_IN}'")
    for source in sources:
        empty = True
        for name, text in _open(source, errors):
            if text.strip():
                empty = False
                yield name, text
        if empty:
            raise ValueError(f"data: the source '{source}' holds no text; give one that does, or leave it out")


def _open(source: str, errors: str) -> Iterator[Document]:
    if source == "-":
        return iter([("standard input", _decode(sys.stdin.buffer.read(), "standard input", errors))])
    if source.startswith("hf:"):
        return _data_set(source)
    if os.path.exists(source):
        return _folder(Path(source), errors) if os.path.isdir(source) else _file(Path(source), errors)
    if source == BUILT_IN:
        return _manual()
    if glob.has_magic(source):
        files = [Path(name) for name in sorted(glob.glob(source, recursive=True)) if os.path.isfile(name)]
        if not files:
            raise FileNotFoundError(f"data: no file matches '{source}' in {os.getcwd()}")
        return (document for file in files for document in _file(file, errors))
    raise FileNotFoundError(f"data: there is no file or folder '{source}'{_nearest(source)}")


def _nearest(source: str) -> str:
    """The hint of a missing path: the existing name most like it, or the first of its folders that is missing."""
    path = Path(source)
    while not path.parent.is_dir():
        path = path.parent
    missing = "" if path == Path(source) else f": the folder '{path}' does not exist"
    near = hint.beside(path, *([BUILT_IN] if path.parent == Path() else []))
    if near:
        return f"{missing}; did you mean '{near}'?"
    return missing or f" (text that is on every machine: '{BUILT_IN}')"


def _folder(folder: Path, errors: str) -> Iterator[Document]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(where, name)
            if not name.startswith(".") and file.is_file() and not _binary(_read(file, 8192)):
                yield from _file(file, errors)


def _file(file: Path, errors: str) -> Iterator[Document]:
    data = _read(file)
    if _binary(data[:8192]):
        remedy = "unpack it first" if file.suffix in (".zip", ".tar", ".tgz", ".7z") else "give a text file"
        raise ValueError(f"data: '{file}' is a binary file (it holds NUL bytes), not text; {remedy}")
    text = _decode(data, str(file), errors)
    plain = file.with_suffix("") if file.suffix in _OPEN else file
    if plain.suffix == ".jsonl":
        yield from _lines(text, str(file))
    else:
        yield str(file), text


def _read(file: Path, size: int = -1) -> bytes:
    try:
        with _OPEN.get(file.suffix, open)(file, "rb") as stream:
            return stream.read(size)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"data: '{file}' is not a whole {file.suffix} file ({error}); fetch it again") from error
    except OSError as error:
        # bz2 reports damage as an OSError without a number; everything with one (permission, ...) speaks for itself.
        if error.errno is None:
            raise ValueError(f"data: '{file}' is not a whole {file.suffix} file ({error}); fetch it again") from error
        raise


def _binary(data: bytes) -> bool:
    return b"\0" in data


def _decode(data: bytes, name: str, errors: str) -> str:
    try:
        return data.decode("utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: '{name}' is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}. Convert it, or "
            "choose what becomes of such bytes: errors='replace' (U+FFFD in their place) or errors='ignore'"
        ) from None


def _lines(text: str, name: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"data: line {number} of '{name}' is not JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            has = f"the fields {sorted(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
            raise ValueError(f"data: line {number} of '{name}' has {has}; expected an object with a string 'text'")
        yield f"{name}:{number}", row["text"]


def _data_set(source: str) -> Iterator[Document]:
    parts = source.split(":")[1:]
    if len(parts) > 3 or not parts[0]:
        raise ValueError(f"data: '{source}' is not of the form hf:NAME, hf:NAME:COLUMN or hf:NAME:COLUMN:SPLIT")
    name, column, part = parts + ["text", "train"][len(parts) - 1 :]
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"exgate: reading '{source}' needs the package 'datasets'. Install the extra: pip install 'exgate[text]'"
        ) from error
    rows = datasets.load_dataset(name, split=part)
    columns = rows.column_names or []  # pyright: ignore[reportAttributeAccessIssue]
    if column not in columns:
        raise ValueError(f"data: '{name}' has no column '{column}'; it has {columns}: hf:{name}:{columns[0]}")
    return ((f"{name}:{part}:{number}", row[column]) for number, row in enumerate(rows))  # pyright: ignore


def _manual() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            f"exgate: this Python was installed without pydoc_data, which holds '{BUILT_IN}'; name a text file instead"
        ) from error
    return ((f"{BUILT_IN}/{topic}", topics[topic]) for topic in sorted(topics))


class Plan(NamedTuple):
    """Which documents are for validation: the digests of whole ones, or the digest of one that is cut, and where."""

    validation: frozenset[bytes]
    cut: bytes | None = None
    at: int = 0

    def place(self, name: str, text: str) -> list[tuple[bool, Document]]:
        """The document as one or two pieces, each with whether it is for validation."""
        digest = _digest(text)
        if digest != self.cut:
            return [(digest in self.validation, (name, text))]
        return [(False, (f"{name} up to character {self.at}", text[: self.at])),
                (True, (f"{name} from character {self.at}", text[self.at :]))]  # fmt: skip


def plan(docs: Iterable[Document], fraction: float, seed: int = 0, *, say: Callable[[str], None] | None = None) -> Plan:
    """Decides the split of `split` in one pass that keeps only a digest and a length per document.

    Args:
        docs: name and text of each document.
        fraction: the share of the characters that goes to validation, 0 (nothing) to 0.5.
        seed: another number, another choice.
        say: told in a sentence when one document has to be cut in two, or is more than was asked for.
    Raises:
        ValueError: the fraction is out of range, or there is nothing that could be split.
    """
    if not 0 <= fraction <= 0.5:
        raise ValueError(f"data: the validation fraction is {fraction}; it should be between 0 and 0.5")
    sizes: dict[bytes, int] = {}
    largest = ("", "")
    for name, text in docs:
        # Copies of a document share its digest, so they fall on the same side: nothing that is learnt is tested.
        digest = _digest(text)
        sizes[digest] = sizes.get(digest, 0) + len(text)
        largest = max(largest, (name, text), key=lambda document: len(document[1]))
    total = sum(sizes.values())
    goal = fraction * total
    if goal == 0:
        return Plan(frozenset())
    chosen, taken = set(), 0
    order = sorted(sizes, key=lambda digest: hashlib.sha256(b"%d " % seed + digest).digest())
    for digest in order:
        if taken < goal and taken + sizes[digest] <= 1.5 * goal:
            chosen.add(digest)
            taken += sizes[digest]
    if taken >= goal / 2 and len(chosen) < len(sizes):
        return Plan(frozenset(chosen))
    name, text = largest
    at = text.rfind("\n", 1, max(1, len(text) - round(min(goal, len(text) / 2)))) + 1
    if not text[:at].strip() or not text[at:].strip():
        if len(sizes) > 1:
            nearest = min(order, key=lambda digest: abs(sizes[digest] - goal))
            if say:
                say(
                    f"no document is short enough for {fraction:.2g} of the text, and the longest has no line border "
                    f"to cut it at: a whole one validates, {sizes[nearest] / total:.2g} of the text"
                )
            return Plan(frozenset([nearest]))
        raise ValueError(
            f"data: '{name}' has no line border to split it at for validation; give validation text of its own, "
            "or a validation fraction of 0"
        )
    if say:
        say(f"too few documents to set some aside: '{name}' is cut, its end from character {at:,} validates")
    return Plan(frozenset(), _digest(text), at)


def split(
    docs: Iterable[Document], fraction: float, seed: int = 0, *, say: Callable[[str], None] | None = None
) -> tuple[list[Document], list[Document]]:
    """Training and validation documents, by whole documents where that is possible.

    The choice depends on the seed and on the documents' contents, not on their names or order: documents in the order
    of a keyed hash, as many as come to `fraction` of all characters. Where they are too few or too large for that (one
    file), the last lines of the largest document validate, or if it has one line only the whole document whose size is
    nearest, and `say` is told. Arguments and errors as in `plan`.
    """
    docs = list(docs)
    decided = plan(docs, fraction, seed, say=say)
    train: list[Document] = []
    validation: list[Document] = []
    for document in docs:
        for held_out, piece in decided.place(*document):
            (validation if held_out else train).append(piece)
    return train, validation


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
