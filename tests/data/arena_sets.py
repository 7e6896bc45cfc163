"""Tiny data sets of the Long Range Arena, in the layouts and file formats in which they are published."""

import struct
import zlib
from pathlib import Path

import numpy as np


def text(folder: Path, *, train: int = 10, test: int = 4) -> Path:
    """aclImdb with so many reviews of each class; a review says where it is."""
    for part, count in (("train", train), ("test", test)):
        for label in ("pos", "neg", "unsup"):
            place = folder / "aclImdb" / part / label
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number}_{8 if label == 'pos' else 2}.txt").write_text(f"{part} {label} {number}, good")
    return folder / "aclImdb"


def retrieval(folder: Path, *, rows: int = 6) -> Path:
    """The three files of pairs; label 1 has the number of its row in both documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "eval", "test"):
        lines = [
            f"{float(row % 2)}\tP{row:02d}-1001\tW{row:02d}-2002\tb'{part} {row}\\nfirst'\t"
            f'b"{part} {row if row % 2 else "other"} it\'s \\xe2\\x82\\xac"'
            for row in range(rows)
        ]
        (folder / f"new_aan_pairs.{part}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def cifar(folder: Path, *, rows: int = 8) -> Path:
    """cifar-10-batches-bin with so many images a file; image k of all has red k, green 2k, blue 3k, class k modulo 10.

    Its first pixel is black, its last white.
    """
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    for batch, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        records = np.empty((rows, 1 + 3 * 1024), np.uint8)
        for row in range(rows):
            k = batch * rows + row
            planes = np.repeat(np.array([[k], [2 * k], [3 * k]], np.uint8), 1024, 1)
            planes[:, 0], planes[:, -1] = 0, 255
            records[row, 0], records[row, 1:] = k % 10, planes.ravel()
        records.tofile(place / f"{name}.bin")
    return place


def pathfinder(folder: Path, *, folders: int = 2, rows: int = 10) -> Path:
    """pathfinder32/curv_contour_length_14; image k is grey at level k, and its second pixel is white if its class is 1.

    Metadata are lines of text, whatever their files are called.
    """
    place = folder / "pathfinder32" / "curv_contour_length_14"
    (place / "metadata").mkdir(parents=True)
    for number in range(folders):
        (place / "imgs" / str(number)).mkdir(parents=True)
        lines = []
        for row in range(rows):
            k = number * rows + row
            pixels = np.full((32, 32), k % 256, np.uint8)
            pixels[0, 1] = 255 * (k % 2)
            png(place / "imgs" / str(number) / f"sample_{row}.png", pixels)
            lines.append(f"imgs/{number} sample_{row}.png {row + 1} {k % 2} 2 12 0.1 [1.8]\n")
        (place / "metadata" / f"{number}.npy").write_text("".join(lines))
    return place


def png(path: Path, pixels: np.ndarray) -> None:
    """A PNG file of (H, W) or (H, W, 3) bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )
