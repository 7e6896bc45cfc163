"""Windows of bytes and words: parts that do not overlap, targets one step ahead, words grouped by frequency."""

from pathlib import Path

import numpy as np
import pytest

from exgate.data import excerpts

LINE = "the cat saw the dog and the cow "


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number:05d}" for number in range(2000)))
    return str(path)


def test_bytes_are_predicted_one_ahead_and_parts_do_not_overlap(file):
    task = excerpts.bytes_([file])
    assert (task.vocabulary, task.outputs, task.along) == (256, 256, True)
    seen = {}
    for name, sample in (("train", task.sample), ("validation", task.validation), ("test", task.test)):
        inputs, targets = sample(np.random.default_rng(0), 500, 40, 40)
        assert inputs.shape == targets.shape == (500, 40)
        assert (inputs[:, 1:] == targets[:, :-1]).all()
        rows = [bytes(row.tolist()).decode() for row in np.concatenate([inputs, targets[:, -1:]], 1)]
        # Somewhere in a row of 41 digits there is a whole number: its place in the text.
        seen[name] = {
            int(row[k : k + 5])
            for row in rows
            for k in range(5)
            if abs(int(row[k + 5 : k + 10]) - int(row[k : k + 5])) == 1
        }
    assert max(seen["train"]) < 1800 <= min(seen["validation"])
    assert max(seen["validation"]) < 1900 <= min(seen["test"])


def test_words_are_grouped_by_how_often_they_were_seen(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text((LINE * 9 + "\n") * 200 + "unseen " * 2000)
    task = excerpts.words([str(path)], most=4)
    assert task.vocabulary == 1 + 1 + 4
    group = task.groups.tolist()
    assert group[0] == len(excerpts.EDGES) + 1, "words that are not known have a group of their own"
    assert group[2] == 3, "'the', 5,000 times"
    assert len(group) == task.vocabulary
    inputs, _ = task.sample(np.random.default_rng(0), 50, 30, 30)
    assert set(np.unique(inputs)) == set(range(6))
    unseen, _ = task.test(np.random.default_rng(0), 50, 30, 30)
    assert (unseen == excerpts.UNKNOWN).all()


def test_the_fingerprint_is_of_the_text_alone(file, tmp_path):
    other = tmp_path / "copy.txt"
    other.write_text(Path(file).read_text())
    assert excerpts.fingerprint([file]) == excerpts.fingerprint([str(other)])
    other.write_text("0")
    assert excerpts.fingerprint([file]) != excerpts.fingerprint([str(other)])


def test_a_short_text_is_refused_in_words(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("short " * 20)
    task = excerpts.bytes_([str(path)])
    with pytest.raises(ValueError, match="a part of the text has 6 tokens, but a window of 16"):
        task.test(np.random.default_rng(0), 2, 16, 16)
