"""The data sets of the Long Range Arena: what a row holds, parts that do not overlap, and damage in words."""

import sys

import numpy as np
import pytest

from exgate import figure
from exgate.data import arena, arena_files
from exgate.data.synthetic import IGNORED
from tests.data import arena_sets


@pytest.fixture
def whole(tmp_path):
    """A folder of all, the pairs and Pathfinder as the archive of the release unpacks."""
    arena_sets.text(tmp_path)
    arena_sets.cifar(tmp_path)
    arena_sets.retrieval(tmp_path / "lra_release" / "tsv_data")
    if figure.available():
        arena_sets.pathfinder(tmp_path / "lra_release" / "lra_release")
    return tmp_path


def drawn(sample, longest, rows=200):
    """Distinct (sequence, label), the sequence up to its last step, as a hashable; and the checks of every row."""
    inputs, targets = sample(np.random.default_rng(0), rows, 1, longest)
    assert targets.shape == (rows, longest) == inputs.shape[:2]
    found = set()
    for sequence, row in zip(inputs, targets, strict=True):
        (last,) = np.flatnonzero(row != IGNORED)
        assert not sequence[last + 1 :].any(), "padding is 0"
        found.add((tuple(np.round(sequence[: last + 1].ravel(), 4).tolist()), int(row[last])))
    return found


def parts(task, longest):
    return [drawn(sample, longest) for sample in (task.sample, task.validation, task.test)]


def words(found):
    return {(bytes(token - 1 for token in sequence).decode(), label) for sequence, label in found}


def test_reviews(tmp_path):
    arena_sets.text(tmp_path)
    task = arena.text([str(tmp_path)])
    assert (task.vocabulary, task.outputs, task.chance, task.features) == (257, 2, 0.5, 0)
    training, validation, test = map(words, parts(task, 40))
    assert (len(training), len(validation)) == (18, 2)
    assert not training & validation
    assert training | validation == {
        (f"train {name} {number}, good", label) for label, name in enumerate(("neg", "pos")) for number in range(10)
    }
    assert test == {(f"test {name} {k}, good", label) for label, name in enumerate(("neg", "pos")) for k in range(4)}
    assert words(drawn(task.test, 6)) == {("test n", 0), ("test p", 1)}
    (tmp_path / "aclImdb/test/neg/0_2.txt").write_text("")
    with pytest.raises(ValueError, match=r"the review '.*0_2.txt' is empty"):
        drawn(task.test, 40)


def test_pairs(tmp_path):
    task = arena.retrieval([str(arena_sets.retrieval(tmp_path))])
    assert (task.vocabulary, task.outputs) == (258, 2)
    separator = arena.SEPARATOR
    for name, found in zip(("train", "eval", "test"), parts(task, 101), strict=True):
        texts = set()
        for sequence, label in found:
            at = sequence.index(separator)
            first, second = (bytes(token - 1 for token in part) for part in (sequence[:at], sequence[at + 1 :]))
            texts.add((first.decode(), second.decode(), label))
        assert texts == {
            (f"{name} {row}\nfirst", f"{name} {row if row % 2 else 'other'} it's €", row % 2) for row in range(6)
        }
    for sequence, _ in drawn(task.sample, 12):
        assert len(sequence) == 11, "five bytes of each document, whatever there are"
        assert sequence.index(separator) == 5


@pytest.mark.parametrize(
    "field, text",
    [
        (rb"b'one \'two\' \\n \x00'", b"one 'two' \\n \x00"),
        (b'"b""one"""', b"one"),
        (b'"say ""no"" to it"', b'say "no" to it'),
        (b"plain \xc3\xa9", b"plain \xc3\xa9"),
        (rb"b'\d is kept'", rb"\d is kept"),
        (b"b'", b"b'"),
    ],
)
def test_quotes_of_pairs(field, text):
    assert arena_files.pair(b"1\tx\ty\t" + field + b"\t" + field + b"\r\n", "here") == (1, text, text)
    assert arena_files.pair(b"1\tx\ty\tone\ta\tb", "here")[2] == b"a\tb"


def test_damaged_pairs(tmp_path):
    arena_sets.retrieval(tmp_path)
    file = tmp_path / "new_aan_pairs.eval.tsv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "", lines[1].replace("\t", " ")]) + "\n")
    task = arena.retrieval([str(tmp_path)])
    with pytest.raises(ValueError, match=r"line 3 of '.*eval.tsv' is .*; it should be a label \(0 or 1\), two names"):
        drawn(task.validation, 40)
    file.write_text("label\tid1\tid2\ttext1\ttext2\n")
    with pytest.raises(ValueError, match=r"line 1 of '.*eval.tsv' is b'label"):
        arena.retrieval([str(tmp_path)])


def test_grey_images(tmp_path):
    arena_sets.cifar(tmp_path)
    task = arena.image([str(tmp_path)])
    assert (task.vocabulary, task.features, task.outputs, task.chance) == (0, 1, 10, 0.1)
    inputs, targets = task.test(np.random.default_rng(0), 5, 1024, 1024)
    assert inputs.shape == (5, 1024, 1)
    assert inputs.dtype == np.float32
    assert (inputs[:, 0] == -1).all()
    assert inputs[:, -1] == pytest.approx(1, abs=1e-6)
    found = parts(task, 1024)
    numbers = [{(round((row[1] + 1) * 127.5 / (0.299 + 2 * 0.587 + 3 * 0.114)), label) for row, label in part}
               for part in found]  # fmt: skip
    ranges = (range(36), range(36, 40), range(40, 48))
    assert numbers == [{(k, k % 10) for k in part} for part in ranges], "the last tenth of the five files validates"
    assert (targets[:, :-1] == IGNORED).all()


def test_coloured_images(tmp_path):
    arena_sets.cifar(tmp_path)
    task = arena.rgb_image([str(tmp_path)])
    assert task.features == 3
    inputs, targets = task.test(np.random.default_rng(0), 20, 64, 64)
    colours = np.round((inputs[:, 5] + 1) * 127.5)
    assert (colours == colours[:, :1] * [1, 2, 3]).all()
    assert (colours[:, 0] % 10 == targets[:, -1]).all(), "images are cut to the first pixels"


def test_damaged_images(tmp_path):
    place = arena_sets.cifar(tmp_path)
    file = place / "data_batch_3.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"'.*data_batch_3.bin' has 24,583 bytes that are not records of CIFAR-10"):
        arena.image([str(tmp_path)])
    file.write_bytes(b"\x0b" + content[1:])
    with pytest.raises(ValueError, match=r"data_batch_3.bin"):
        arena.image([str(tmp_path)])
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"only a part of the data of 'image': there is no data_batch_3.bin"):
        arena.fingerprint([str(tmp_path)])


def test_pickled_images_are_not_opened(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        with pytest.raises(
            FileNotFoundError, match=r"CIFAR-10 only as cifar-10-batches-py.*binary version, cifar-10-batch"
        ):
            arena.fingerprint([str(folder)])
    arena_sets.cifar(tmp_path)
    assert set(arena.fingerprint([str(tmp_path)])) == {"image", "rgb-image"}


def test_paths(tmp_path):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    place = arena_sets.pathfinder(tmp_path)
    task = arena.pathfinder([str(tmp_path)])
    assert (task.features, task.outputs, task.chance) == (1, 2, 0.5)
    found = parts(task, 1024)
    levels = [{(round((row[0] + 1) * 127.5), row[1], label) for row, label in part} for part in found]
    assert [len(part) for part in levels] == [16, 2, 2]
    assert set.union(*levels) == {(k, 1.0 if k % 2 else -1.0, k % 2) for k in range(20)}
    coloured = np.zeros((32, 32, 3), np.uint8)
    coloured[0, 0] = [0, 255, 0]
    arena_sets.png(place / "imgs" / "0" / "sample_0.png", coloured)
    assert arena_files.grey(arena_files.png_reader(), place / "imgs" / "0" / "sample_0.png")[:2].tolist() == [150, 0]


def test_metadata_as_an_array(tmp_path):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    place = arena_sets.pathfinder(tmp_path)
    file = place / "metadata" / "1.npy"
    rows = [line.split() for line in file.read_text().splitlines()]
    before = parts(arena.pathfinder([str(tmp_path)]), 2)
    np.save(file, np.array(rows))
    assert parts(arena.pathfinder([str(tmp_path)]), 2) == before
    np.save(file, np.array(rows, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"'.*1.npy' is an array that cannot be read without unpickling"):
        arena.pathfinder([str(tmp_path)])


def test_damaged_paths(tmp_path):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    place = arena_sets.pathfinder(tmp_path)
    for number in range(10):
        (place / "imgs" / "0" / f"sample_{number}.png").write_bytes(b"" if number else b"\x89PNG\r\n\x1a\nno more")
    task = arena.pathfinder([str(tmp_path)])
    with pytest.raises(ValueError, match=r"'.*sample_\d.png' is no image that can be read"):
        drawn(task.sample, 1024)
    for number in range(10):
        arena_sets.png(place / "imgs" / "0" / f"sample_{number}.png", np.zeros((32, 31), np.uint8))
    with pytest.raises(ValueError, match=r"has the shape \(32, 31\); it should be 32 x 32 pixels"):
        drawn(task.sample, 1024)
    (place / "imgs" / "1" / "sample_7.png").unlink()
    with pytest.raises(ValueError, match=r"1.npy' has the row 'imgs/1 sample_7.png 8 1 ...'"):
        arena.pathfinder([str(tmp_path)])


def test_paths_need_a_reader_of_png(tmp_path, monkeypatch):
    arena_sets.pathfinder(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    with pytest.raises(ImportError, match=r"reading PNG files needs the package 'matplotlib'.*exgate\[plot\]"):
        arena.fingerprint([str(tmp_path)])


def test_the_fingerprint_is_of_each_data_set_wherever_it_is(whole, tmp_path):
    found = arena.fingerprint([str(whole)])
    assert set(found) == set(arena.TASKS) - (set() if figure.available() else {"pathfinder"})
    apart = [str(whole / "aclImdb"), str(whole / "lra_release"), str(whole / "cifar-10-batches-bin")]
    assert arena.fingerprint(apart) == found, "the folders of the data sets themselves"
    moved = whole.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert arena.fingerprint([str(moved)]) == found
    image = moved / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(image.read_bytes())
    content[100] ^= 1  # its size stays
    image.write_bytes(content)
    (moved / "aclImdb" / "train" / "pos" / "3_8.txt").write_text("longer than it was before")
    changed = arena.fingerprint([str(moved)])
    assert {name for name in found if found[name] != changed[name]} == {"text", "image", "rgb-image"}


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*missing'"):
        arena.fingerprint([str(tmp_path / "missing")])
    with pytest.raises(
        FileNotFoundError, match=r"holds nothing, and no data set of the arena. Expected are the folders"
    ):
        arena.fingerprint([str(tmp_path)])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"holds notes.txt, but not the data of 'text', aclImdb/train/pos"):
        arena.text([str(tmp_path)])
    arena_sets.cifar(tmp_path, rows=1)
    with pytest.raises(ValueError, match="the data of 'image' leave no example for validation"):
        arena.image([str(tmp_path)])
