"""The Long Range Arena (Tay et al. 2021, arXiv:2011.04006) from files: one class for a sequence, at its last step.

Its data sets are read as they are published. A folder holds any of these, or is one of them:

    aclImdb/{train,test}/{pos,neg}/*.txt                                   `text`
    new_aan_pairs.{train,eval,test}.tsv, tsv_data/ may be around them      `retrieval`
    cifar-10-batches-bin/{data_batch_1 ... 5,test_batch}.bin               `image`, `rgb_image`
    pathfinder32/curv_contour_length_14/{metadata/*.npy,imgs/*/*.png}      `pathfinder`

lra_release/ may be around each. Rows are drawn from a part, with repetition, and read when they are drawn. A sequence
is cut to `longest`; `shortest` is not looked at. ListOps is generated: `exgate.data.synthetic.listops`.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from exgate.data import arena_files
from exgate.data.arena_files import CLASSES, GREY, LAYOUTS, SIDE
from exgate.data.synthetic import IGNORED, Batch, Sample, Task

SEPARATOR = 257  # between two documents, whose bytes are 1 to 256
Read = Callable[[int, int], tuple[np.ndarray, int]]  # (number, longest) -> sequence (T,) or (T, F), class
Part = tuple[Read, np.ndarray]  # how to read an example, and the numbers of the examples


def fingerprint(folders: Sequence[str]) -> dict[str, str]:
    """The tasks whose data are in the folders, each with twelve letters that change with its files, wherever they are.

    Each task is made once, so that what is wrong with its files is said before the first run.

    Raises:
        FileNotFoundError: there is no such folder, or it holds none of the data sets.
    """
    found = {}
    for name, make in TASKS.items():
        if (place := arena_files.find(folders, name)) is not None:
            make(folders)
            found[name] = arena_files.digest(place, name)
    if not found:
        expected = ", ".join(dict.fromkeys(folder for folder, *_ in LAYOUTS.values()))
        raise FileNotFoundError(
            f"arena: {arena_files.held(folders)}, and no data set of the arena. Expected are the folders {expected}, "
            "as they are published. Unpack one of them there, or name the folder that holds it."
        )
    return found


def text(folders: Sequence[str]) -> Task:
    """Byte-level IMDB (Maas et al. 2011): whether a review is good, 1, or bad, 0. Tokens are the bytes plus 1.

    A tenth of the training part, chosen by a fixed seed, is for validation.

    Raises:
        FileNotFoundError: the folders do not hold the data set, or not all of it.
        ValueError: when sampling: a file is empty.
    """
    good, bad, good_test, bad_test = arena_files.files_of(arena_files.place_of(folders, "text"), "text")

    def part(classes: Sequence[Sequence[Path]]) -> Read:
        known = [(file, label) for label, files in enumerate(classes) for file in files]

        def read(number: int, longest: int) -> tuple[np.ndarray, int]:
            file, label = known[number]
            with open(file, "rb") as stream:
                found = stream.read(longest)
            if not found:
                raise ValueError(f"arena: the review '{file}' is empty; unpack the archive again.")
            return _tokens(found), label

        return read

    training = part((bad, good))
    numbers = _shuffled(len(bad) + len(good), 0.9)
    test = (part((bad_test, good_test)), np.arange(len(bad_test) + len(good_test)))
    return _task("text", [(training, share) for share in numbers] + [test], vocabulary=257, outputs=2)


def retrieval(folders: Sequence[str]) -> Task:
    """Byte-level pairs of papers of the ACL Anthology Network (Radev et al. 2013): whether one cites the other.

    A sequence is document 1, a separator, document 2, and the class is read at its end. Both documents are cut to one
    length, so that they fit into `longest`: 8001 is 4000 bytes each. The arena's own set-up differs: it encodes the two
    apart, and a small network reads both codes. Bytes are written as Python writes them (b'...') in the release; that
    is undone.

    Raises:
        FileNotFoundError: the folders do not hold the data set, or not all of it.
        ValueError: a file is not of this form. Lines after the first one are looked at when they are sampled.
    """
    files = arena_files.files_of(arena_files.place_of(folders, "retrieval"), "retrieval")
    return _task("retrieval", [_pairs(file) for (file,) in files], vocabulary=258, outputs=2)


def image(folders: Sequence[str]) -> Task:
    """Grey CIFAR-10 (Krizhevsky 2009), 1024 pixels row by row from -1 to 1: ten classes.

    The binary version is read, as unpickling a file may run what is in it. The last tenth of the training part is for
    validation: 45,000, 5,000 and 10,000 images.

    Raises:
        FileNotFoundError: the folders do not hold the data set, or not all of it, or only the pickled one.
        ValueError: a file is not of this form.
    """
    return _cifar(folders, "image", GREY[:, None])


def rgb_image(folders: Sequence[str]) -> Task:
    """As `image`, with red, green and blue at each step."""
    return _cifar(folders, "rgb-image", np.eye(3, dtype=np.float32))


def pathfinder(folders: Sequence[str]) -> Task:
    """Pathfinder (Linsley et al. 2018), 32 x 32, 1024 pixels row by row from -1 to 1: whether a path joins two dots.

    80, 10 and 10 % of the images, chosen by a fixed seed, are for training, validation and the test. An image stays in
    memory once it was read, a byte a pixel.

    Raises:
        FileNotFoundError: the folders do not hold the data set, or not all of it.
        ValueError: a row of the metadata is not of the release's form. Sampling: or an image is damaged.
        ImportError: the extra `plot`, which reads PNG files, is not installed.
    """
    place, imread = arena_files.place_of(folders, "pathfinder"), arena_files.png_reader()
    metadata, images = arena_files.files_of(place, "pathfinder")
    there = {f"imgs/{image.parent.name}/{image.name}": image for image in images}
    known = [arena_files.example(there, file, row) for file in metadata for row in arena_files.rows(file)]

    @cache
    def pixels(number: int) -> np.ndarray:
        return arena_files.grey(imread, known[number][0])

    def read(number: int, longest: int) -> tuple[np.ndarray, int]:
        return _scaled(pixels(number)[:longest, None]), known[number][1]

    parts = [(read, numbers) for numbers in _shuffled(len(known), 0.8, 0.9)]
    return _task("pathfinder", parts, features=1, outputs=2)


TASKS = {"text": text, "retrieval": retrieval, "image": image, "rgb-image": rgb_image, "pathfinder": pathfinder}


def _task(name: str, parts: Sequence[Part], *, outputs: int, vocabulary: int = 0, features: int = 0) -> Task:
    for part, (_, numbers) in zip(("training", "validation", "test"), parts, strict=True):
        if not len(numbers):
            raise ValueError(f"arena: the data of '{name}' leave no example for {part}. Give the whole data set.")
    training, validation, test = (_sample(*part, features) for part in parts)
    return Task(
        sample=training, validation=validation, test=test, outputs=outputs, chance=1 / outputs, vocabulary=vocabulary,
        features=features,
    )  # fmt: skip


def _sample(read: Read, numbers: np.ndarray, features: int) -> Sample:
    def sample(rng: np.random.Generator, rows: int, shortest: int, longest: int) -> Batch:
        shape = (rows, longest, features) if features else (rows, longest)
        inputs = np.zeros(shape, np.float32 if features else np.int64)
        targets = np.full((rows, longest), IGNORED)
        for row, number in enumerate(rng.choice(numbers, rows)):
            sequence, label = read(int(number), longest)
            inputs[row, : len(sequence)], targets[row, len(sequence) - 1] = sequence, label
        return Batch(inputs, targets)

    return sample


def _shuffled(count: int, *shares: float) -> list[np.ndarray]:
    """The numbers below `count`, always in the same random order, split at these shares."""
    return np.split(np.random.default_rng(0).permutation(count), [int(share * count) for share in shares])


def _tokens(found: bytes) -> np.ndarray:
    return np.frombuffer(found, np.uint8).astype(np.int64) + 1


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels / np.float32(127.5) - 1


def _pairs(file: Path) -> Part:
    with open(file, "rb") as stream:
        sizes = np.array([len(line) for line in stream], np.int64)
    starts = np.cumsum(sizes) - sizes

    def read(number: int, longest: int) -> tuple[np.ndarray, int]:
        with open(file, "rb") as stream:
            stream.seek(starts[number])
            label, first, second = arena_files.pair(stream.readline(), f"line {number + 1} of '{file}'")
        most = max(0, longest - 1) // 2
        return np.concatenate([_tokens(first[:most]), [SEPARATOR], _tokens(second[:most])]), label

    numbers = np.flatnonzero(sizes > 2)  # others are empty lines
    for number in numbers[:1]:
        read(int(number), 1)
    return read, numbers


def _cifar(folders: Sequence[str], name: str, colours: np.ndarray) -> Task:
    *batches, (last,) = arena_files.files_of(arena_files.place_of(folders, name), name)
    training, test = np.concatenate([arena_files.records(file) for (file,) in batches]), arena_files.records(last)

    def part(records: np.ndarray) -> Read:
        def read(number: int, longest: int) -> tuple[np.ndarray, int]:
            planes = records[number, 1:].reshape(3, SIDE**2)[:, :longest]  # red, green, blue
            return _scaled(planes.T @ colours), int(records[number, 0])

        return read

    numbers = np.split(np.arange(len(training)), [len(training) - len(training) // 10])
    parts = [(part(training), share) for share in numbers] + [(part(test), np.arange(len(test)))]
    return _task(name, parts, features=colours.shape[1], outputs=CLASSES)
