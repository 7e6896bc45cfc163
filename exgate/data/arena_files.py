"""The files of the Long Range Arena: where they lie in a folder, and what stands in them. Nothing is unpickled."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

AROUND = (".", "lra_release", "lra_release/lra_release")
CIFAR = ("cifar-10-batches-bin", *(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
# By task: the folder, and what is in it.
LAYOUTS = {
    "text": ("aclImdb", "train/pos/*.txt", "train/neg/*.txt", "test/pos/*.txt", "test/neg/*.txt"),
    "retrieval": ("tsv_data", *(f"new_aan_pairs.{part}.tsv" for part in ("train", "eval", "test"))),
    "image": CIFAR,
    "rgb-image": CIFAR,
    "pathfinder": ("pathfinder32/curv_contour_length_14", "metadata/*.npy", "imgs/*/*.png"),
}
PICKLED = "cifar-10-batches-py"
SIDE, CLASSES = 32, 10  # of the images; of CIFAR-10
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue: ITU-R BT.601
FEW = 10  # files whose contents are part of a fingerprint, not only their names and sizes
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[nrt'\"\\])")
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def find(folders: Sequence[str], name: str) -> Path | None:
    """The folder of a task's data: the first that has any of their files; None where there is none.

    Raises:
        FileNotFoundError: one of the folders is not there, or CIFAR-10 is there in its pickled form alone.
    """
    inside, *patterns = LAYOUTS[name]
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"arena: there is no folder '{folder}'. Name one that holds the data sets.")
        for around in AROUND:
            for place in (Path(folder, around), Path(folder, around, inside)):
                if any(next(place.glob(pattern), None) for pattern in patterns):
                    return place
    for folder in folders:
        if inside == CIFAR[0] and (Path(folder).name == PICKLED or Path(folder, PICKLED).is_dir()):
            raise FileNotFoundError(
                f"arena: '{folder}' has CIFAR-10 only as {PICKLED}: pickled files, which may run what is in them and "
                f"are not opened. Put the binary version, {CIFAR[0]}, beside it, or name the other folders alone."
            )
    return None


def place_of(folders: Sequence[str], name: str) -> Path:
    """As `find`.

    Raises:
        FileNotFoundError: the data are not there.
    """
    if (place := find(folders, name)) is None:
        raise FileNotFoundError(
            f"arena: {held(folders)}, but not the data of '{name}', {'/'.join(LAYOUTS[name][:2])} and so on. Unpack "
            "them there as they are published, or name the folder that holds them."
        )
    return place


def files_of(place: Path, name: str) -> list[list[Path]]:
    """The files of each pattern of a task's layout, in a fixed order.

    Raises:
        FileNotFoundError: there is none of a pattern.
    """
    found = {pattern: sorted(place.glob(pattern), key=str) for pattern in LAYOUTS[name][1:]}
    if missing := [pattern for pattern, files in found.items() if not files]:
        raise FileNotFoundError(
            f"arena: '{place}' has only a part of the data of '{name}': there is no {', no '.join(missing)}. Unpack "
            "the archive again, as it is published."
        )
    return list(found.values())


def held(folders: Sequence[str]) -> str:
    """What is in the folders, as the subject and verb of an error."""
    inside = sorted(path.name for folder in folders for path in Path(folder).iterdir())
    shown = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "") if inside else "nothing"
    return f"'{', '.join(folders)}' holds {shown}"


def digest(place: Path, name: str) -> str:
    """Twelve letters of the names and sizes of a task's files below `place`; where they are few, of their contents."""
    files = [file for files in files_of(place, name) for file in files]
    found, above = hashlib.sha256(), len(str(place))
    for file in files:
        below = str(file)[above:].replace(os.sep, "/").lstrip("/")
        found.update(f"{below}\0{os.path.getsize(file)}\0".encode())
        if len(files) <= FEW:
            with open(file, "rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:12]


def pair(line: bytes, where: str) -> tuple[int, bytes, bytes]:
    """The label and the two texts of a line, without the quotes of CSV and of Python's bytes around them.

    Raises:
        ValueError: it is not of the release's form: label, name, name, text, text.
    """
    fields = [_unquoted(field) for field in line.rstrip(b"\r\n").split(b"\t", 4)]
    if len(fields) != 5 or fields[0] not in (b"0", b"1", b"0.0", b"1.0"):
        raise ValueError(
            f"arena: {where} is {line[:40]!r}...; it should be a label (0 or 1), two names and two texts, with tabs "
            "between them. Take the file as the release of the Long Range Arena has it."
        )
    return int(float(fields[0])), fields[3], fields[4]


def _unquoted(field: bytes) -> bytes:
    if len(field) > 1 and field[:1] == field[-1:] == b'"':
        field = field[1:-1].replace(b'""', b'"')
    if field[:2] not in (b"b'", b'b"') or len(field) < 3 or field[-1:] != field[1:2]:
        return field

    def byte(escape: re.Match[bytes]) -> bytes:
        code = escape[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else _ESCAPED.get(code, code)

    return _ESCAPE.sub(byte, field[2:-1])


def records(file: Path) -> np.ndarray:
    """(N, 1 + 3072) bytes: a label and the red, green and blue of an image each.

    Raises:
        ValueError: the file's size is no multiple of it, or a label is not one of ten.
    """
    found, size = np.fromfile(file, np.uint8), 1 + 3 * SIDE**2
    if not len(found) or len(found) % size or found[::size].max() >= CLASSES:
        raise ValueError(
            f"arena: '{file}' has {len(found):,} bytes that are not records of CIFAR-10 ({size:,} bytes, the first one "
            "a class below 10). Fetch the binary version again."
        )
    return found.reshape(-1, size)


def png_reader() -> Callable[[Path], np.ndarray]:
    """What reads a PNG file: (H, W) or (H, W, 3 or 4) floats from 0 to 1.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.image import imread
    except ImportError as error:
        raise ImportError(
            "exgate: reading PNG files needs the package 'matplotlib'. Install the extra: pip install 'exgate[plot]'"
        ) from error
    return imread


def rows(file: Path) -> list[list[str]]:
    """The rows of a file of Pathfinder's metadata: text in the release; an array of words is taken, too.

    Raises:
        ValueError: it is an array of objects.
    """
    found = file.read_bytes()
    if not found.startswith(b"\x93NUMPY"):
        return [line.split() for line in found.decode("utf-8", errors="replace").splitlines() if line.strip()]
    try:
        return np.atleast_2d(np.load(io.BytesIO(found), allow_pickle=False)).astype(str).tolist()
    except ValueError as error:
        raise ValueError(
            f"arena: '{file}' is an array that cannot be read without unpickling ({error}), which may run what is in "
            "it. Take the file of the release, which is text."
        ) from None


def example(there: Mapping[str, Path], file: Path, row: list[str]) -> tuple[Path, int]:
    """The image and the label that a row of metadata names: imgs/N, sample_M.png, a number, the label, and others.

    Args:
        there: the images, by what a row calls them: imgs/N/sample_M.png.
        file: of the row, for the error.
    Raises:
        ValueError: the row is too short, its label is neither 0 nor 1, or its image is not there.
    """
    image = there.get("/".join(row[:2]))
    if len(row) < 4 or row[3] not in ("0", "1") or image is None:
        raise ValueError(
            f"arena: '{file}' has the row '{' '.join(row[:4])} ...'; it should name a folder, a file that is in it, a "
            "number, and 0 or 1. Unpack the archive again."
        )
    return image, int(row[3])


def grey(read: Callable[[Path], np.ndarray], file: Path) -> np.ndarray:
    """(1024,) bytes of an image, row by row.

    Raises:
        ValueError: it is damaged, or not of 32 x 32 pixels.
    """
    try:
        found = np.asarray(read(file))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's for what is no PNG file, or no whole one
        raise ValueError(f"arena: '{file}' is no image that can be read ({error}). Unpack the archive again.") from None
    if found.shape[:2] != (SIDE, SIDE):
        raise ValueError(f"arena: '{file}' has the shape {found.shape}; it should be {SIDE} x {SIDE} pixels.")
    single = found if found.ndim == 2 else found[..., :3] @ GREY
    return np.round(255 * single).astype(np.uint8).ravel()
