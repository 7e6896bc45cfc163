"""Packing: what a window holds, the order of windows, and going on from any place."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from exgate.data.packing import Corpus, Windows
from exgate.data.tokens import ByteTokenizer

TOKENIZER = ByteTokenizer()
END = TOKENIZER.end
DOCS = [("one", "abc"), ("two", "défg hi"), ("three", "j"), ("four", "klmnopqrst uvw")]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.encode(DOCS, TOKENIZER)


def long_corpus(documents: int = 30) -> Corpus:
    return Corpus.encode([(f"d{i}", chr(97 + i % 26) * (3 + 7 * i % 11)) for i in range(documents)], TOKENIZER)


def test_documents_in_a_row(corpus):
    row = []
    for _, body in DOCS:
        row += [END, *body.encode()]
    assert corpus.tokens.tolist() == [*row, END]
    assert corpus.tokens[corpus.starts].tolist() == [END] * 4
    assert corpus.text_bytes.tolist() == [3, 8, 1, 14]
    assert corpus.text_words.tolist() == [1, 2, 1, 2]
    assert corpus.targets == len(row) == 26 + 4
    assert corpus.bytes_per_token == 26 / 30
    assert [bytes(corpus.document(i)).decode() for i in range(4)] == [body for _, body in DOCS]
    with pytest.raises(ValueError, match=r"no documents"):
        Corpus.encode([], TOKENIZER)


def test_windows_hold_targets_and_resets(corpus):
    batch = next(Windows(corpus, batch=1, window=corpus.targets))
    assert batch.tokens[0].tolist() == corpus.tokens[:-1].tolist()
    assert batch.targets[0].tolist() == corpus.tokens[1:].tolist()
    assert batch.reset[0].nonzero().flatten().tolist() == corpus.starts.tolist()
    assert (batch.tokens.dtype, batch.targets.dtype, batch.reset.dtype) == (torch.int64, torch.int64, torch.bool)
    # Each document's last token predicts the end, and its first is predicted where the state is empty.
    last = batch.reset[0].nonzero().flatten()[1:] - 1
    assert batch.targets[0, last].tolist() == [END] * 3


def test_shuffled_epochs_read_every_window_once():
    corpus = long_corpus()
    windows = Windows(corpus, batch=3, window=7, seed=5)
    order = []
    for _ in range(2 * windows.per_epoch // 3 + 1):
        batch = next(windows)
        order += batch.starts
        for start, tokens, targets in zip(batch.starts, batch.tokens, batch.targets, strict=True):
            assert tokens.tolist() == corpus.tokens[start : start + 7].tolist()
            assert targets.tolist() == corpus.tokens[start + 1 : start + 8].tolist()
    first, second = order[: windows.per_epoch], order[windows.per_epoch : 2 * windows.per_epoch]
    assert first != sorted(first)
    assert np.diff(sorted(first)).tolist() == [7] * (windows.per_epoch - 1)
    assert np.diff(sorted(second)).tolist() == [7] * (windows.per_epoch - 1)
    assert np.argsort(first).tolist() != np.argsort(second).tolist()
    assert min(first) != min(second), "the cut moves"
    again = Windows(corpus, batch=3, window=7, seed=5)
    assert [start for _ in range(4) for start in next(again).starts] == order[:12]
    other = Windows(corpus, batch=3, window=7, seed=6)
    assert [start for _ in range(4) for start in next(other).starts] != order[:12]


def test_stateful_rows_go_on_where_they_were():
    corpus = long_corpus()
    windows = Windows(corpus, batch=3, window=7, stateful=True)
    batches = [next(windows) for _ in range(windows.per_epoch)]
    for before, after in pairwise(batches):
        assert [b - a for a, b in zip(before.starts, after.starts, strict=True)] == [7] * 3
        assert before.targets[:, -1].tolist() == after.tokens[:, 0].tolist()
    assert batches[0].reset[:, 0].all(), "an epoch begins with the empty state"
    starts = set(corpus.starts.tolist())
    for batch in batches[1:]:
        for start, reset in zip(batch.starts, batch.reset, strict=True):
            assert reset.tolist() == [start + t in starts for t in range(7)]
    again = next(windows)
    assert again.starts == batches[0].starts
    assert windows.position == {"epoch": 1, "index": 1}


@pytest.mark.parametrize("stateful", [False, True])
def test_any_position_can_be_gone_on_from(stateful):
    corpus = long_corpus()
    whole = Windows(corpus, batch=4, window=5, stateful=stateful, seed=2)
    positions, batches = [], []
    for _ in range(3 * whole.per_epoch):
        positions.append(json.loads(json.dumps(whole.position)))
        batches.append(next(whole))
    for i in (0, 1, whole.per_epoch // 4, whole.per_epoch + 1, len(batches) - 1):
        resumed = Windows(corpus, batch=4, window=5, stateful=stateful, seed=2)
        resumed.seek(positions[i])
        for batch in batches[i : i + 3]:
            assert all(torch.equal(a, b) for a, b in zip(next(resumed)[:3], batch[:3], strict=True))
    with pytest.raises(ValueError, match=r"no position .*is it another text"):
        whole.seek({"epoch": 0, "index": 10**6})


def test_text_shorter_than_a_window(corpus):
    with pytest.raises(ValueError, match=r"30 tokens, fewer than one window \(2 x 31\)"):
        Windows(corpus, batch=2, window=31)
    with pytest.raises(ValueError, match=r"30 tokens, fewer than one batch of windows \(4 x 8\)"):
        Windows(corpus, batch=4, window=8, stateful=True)
    with pytest.raises(ValueError, match=r"at least 1"):
        Windows(corpus, batch=0, window=8)
    # A batch may be larger than an epoch.
    assert next(Windows(corpus, batch=9, window=10)).tokens.shape == (9, 10)


def test_describe_names_documents(corpus):
    windows = Windows(corpus, batch=1, window=8)
    batch = next(windows)._replace(starts=(3,))
    assert windows.describe(batch) == "tokens 3..10 of one, two"
    batch = batch._replace(starts=(0, 1, 2, 3, 4, 5))
    assert windows.describe(batch).endswith("; and 2 windows more")


def test_prepared_folder(corpus, tmp_path):
    folder = tmp_path / "deep" / "train"
    mapped = Corpus.prepare(DOCS, TOKENIZER, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["docs.idx", "meta.json", "tokens.bin"]
    assert [p.name for p in folder.parent.iterdir()] == ["train"]
    assert isinstance(mapped.tokens, np.memmap)
    assert mapped.fingerprint == corpus.fingerprint
    assert mapped.text_words.tolist() == corpus.text_words.tolist()
    for ours, theirs in zip(Windows(mapped, batch=2, window=4), Windows(corpus, batch=2, window=4), strict=False):
        assert torch.equal(ours.tokens, theirs.tokens)
        if ours.starts[0] > 20:
            break
    assert "document 1" in Windows(mapped, batch=1, window=4).describe(
        next(Windows(mapped, batch=1, window=4))._replace(starts=(6,))
    )


def test_a_failing_source_leaves_the_old_folder(tmp_path):
    Corpus.prepare(DOCS, TOKENIZER, tmp_path / "train")

    def failing():
        yield from DOCS
        raise OSError("gone")

    with pytest.raises(OSError, match=r"gone"):
        Corpus.prepare(failing(), TOKENIZER, tmp_path / "train")
    assert [p.name for p in tmp_path.iterdir()] == ["train"]
    assert len(Corpus.load(tmp_path / "train", TOKENIZER).starts) == 4


def test_prepared_folder_that_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not a prepared folder of tokens"):
        Corpus.load(tmp_path, TOKENIZER)
    folder = tmp_path / "train"
    Corpus.prepare(DOCS, TOKENIZER, folder)

    class Other(ByteTokenizer):
        fingerprint = "other"

    with pytest.raises(ValueError, match=r"made with another tokenizer; delete the folder"):
        Corpus.load(folder, Other())
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"tokens.bin' has 60 bytes instead of 62"):
        Corpus.load(folder, TOKENIZER)
    (folder / "meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta.json' is damaged"):
        Corpus.load(folder, TOKENIZER)
