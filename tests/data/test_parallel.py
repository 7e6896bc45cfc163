"""Parallel text: files, batches, and the pair of languages that needs none."""

import gzip

import pytest
import torch

from exgate.data import parallel
from exgate.data.tokens import ByteTokenizer

ENDS = {"source_end": 256, "start": 256, "end": 256}


def test_files_are_read_in_pairs(tmp_path):
    (tmp_path / "train.de").write_text("Ein Hund.\n\nZwei Hunde.\n", encoding="utf-8")
    (tmp_path / "train.en.gz").write_bytes(gzip.compress(b"A dog.\n\nTwo dogs.\n"))
    pairs = parallel.read(tmp_path, "train", "de", "en")
    assert pairs == [("Ein Hund.", "A dog."), ("", ""), ("Zwei Hunde.", "Two dogs.")]
    (tmp_path / "test_2016_flickr.de").write_text("Größe\n", encoding="utf-8")
    (tmp_path / "test_2016_flickr.en").write_text("size\n", encoding="utf-8")
    assert parallel.read(tmp_path, "test", "de", "en") == [("Größe", "size")]


def test_files_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no 'train.de' in .*nowhere' \(there: no such folder\)"):
        parallel.read(tmp_path / "nowhere", "train", "de", "en")
    for name in ("test_a.de", "test_b.de"):
        (tmp_path / name).write_text("x\n")
    with pytest.raises(FileNotFoundError, match=r"no 'train.de' in .*\(there: test_a.de, test_b.de\)"):
        parallel.read(tmp_path, "train", "de", "en")
    with pytest.raises(ValueError, match=r"several files .*test_a.de, test_b.de. Give a whole name"):
        parallel.read(tmp_path, "test", "de", "en")
    (tmp_path / "test_a.en").write_text("x\ny\n")
    with pytest.raises(ValueError, match=r"has 1 lines of de and 2 of en"):
        parallel.read(tmp_path, "test_a", "de", "en")


def test_a_batch_is_padded_at_its_ends():
    batch = parallel.collate([([1, 2, 3], [7]), ([], [8, 9])], source_end=0, start=5, end=6)
    assert batch.source.tolist() == [[1, 2, 3, 0], [0, 0, 0, 0]]
    assert batch.lengths.tolist() == [4, 1]
    assert batch.tokens.tolist() == [[5, 7, 6], [5, 8, 9]]
    assert batch.targets.tolist() == [[7, 6, -100], [8, 9, 6]]
    assert batch.to("meta").targets.is_meta


def test_batches_hold_every_pair_once_and_are_of_like_length():
    text = parallel.number_pairs(500)
    pairs = parallel.encode(text, ByteTokenizer(), ByteTokenizer())

    def sources(seed):
        batches = list(parallel.batches(pairs, 16, seed=seed, pool=10, **ENDS))
        rows = [row[: n - 1].tolist() for batch in batches for row, n in zip(batch.source, batch.lengths, strict=True)]
        return batches, rows

    batches, rows = sources(3)
    assert sorted(rows) == sorted(source for source, _ in pairs)
    assert len(batches) == 32
    padded = sum(batch.source.numel() for batch in batches) / sum(int(batch.lengths.sum()) for batch in batches)
    assert padded < 1.15
    assert rows == sources(3)[1]
    assert rows != sources(4)[1]
    assert sources(None)[1] == [source for source, _ in pairs], "without a seed the order is kept"
    with pytest.raises(ValueError, match="0 pairs in batches of 4"):
        next(parallel.batches([], 4, **ENDS))


def test_numbers_are_spelled():
    words = {0: "zero", 13: "thirteen", 40: "forty", 99: "ninety-nine", 100: "one hundred", 101: "one hundred and one"}
    words |= {1000: "one thousand", 1005: "one thousand and five", 20_120: "twenty thousand one hundred and twenty"}
    words |= {999_999: "nine hundred and ninety-nine thousand nine hundred and ninety-nine"}
    assert {n: parallel._words(n) for n in words} == words
    pairs = parallel.number_pairs(200, 1)
    assert pairs == parallel.number_pairs(200, 1)
    assert pairs != parallel.number_pairs(200, 2)
    assert {len(digits) for _, digits in pairs} == {1, 2, 3, 4, 5, 6}
    assert all(int(digits) < 50 for _, digits in parallel.number_pairs(50, below=50))
    assert torch.tensor([int(digits) for _, digits in pairs]).max() < 1_000_000
