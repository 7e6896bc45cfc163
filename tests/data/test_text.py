"""Sources of documents, their errors, and the split into training and validation."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import types

import pytest

from exgate.data import text


def read(*sources, **options) -> list[tuple[str, str]]:
    return list(text.documents(sources, **options))


def test_files_folders_and_globs(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.md").write_text("three")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "d.txt").write_text("no")
    (tmp_path / "picture.bin").write_bytes(b"\x89\0\0\1")
    (tmp_path / "blank.txt").write_text(" \n")
    assert [body for _, body in read(str(tmp_path))] == ["one", "two", "three"]
    assert read(str(tmp_path / "b.txt")) == [(str(tmp_path / "b.txt"), "two")]
    assert [body for _, body in read(str(tmp_path / "*.txt"))] == ["one", "two"]
    assert [body for _, body in read(str(tmp_path / "**" / "*.md"))] == ["three"]
    assert [body for _, body in read(str(tmp_path / "b.txt"), str(tmp_path / "a.txt"))] == ["two", "one"]


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files(tmp_path, suffix, pack):
    body = "naïve ☃\r\nlines\n" * 400
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(pack(body.encode()))
    assert read(str(file)) == [(str(file), body)]
    file.write_bytes(pack(body.encode())[:-9])
    with pytest.raises(ValueError, match=rf"a.txt{suffix}' is not a whole {suffix} file"):
        read(str(file))
    file.write_bytes(b"not packed at all")
    with pytest.raises(ValueError, match=rf"is not a whole {suffix} file"):
        read(str(file))


def test_json_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "one\u2028still one"}, ensure_ascii=False) + '\n\n{"text": "two", "n": 1}\n')
    assert read(str(file)) == [(f"{file}:1", "one\u2028still one"), (f"{file}:3", "two")]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "three"}'))
    assert read(str(packed)) == [(f"{packed}:1", "three")]
    file.write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* has the fields \['body'\]; expected .* 'text'"):
        read(str(file))
    file.write_text("{broken\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is not JSON"):
        read(str(file))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO("ä b".encode())))
    assert read("-") == [("standard input", "ä b")]


def test_python_manual():
    manual = read("python-manual")
    assert len(manual) > 50
    assert all(name.startswith("python-manual/") and body.strip() for name, body in manual)
    assert manual == sorted(manual)
    assert text.documents("python-manual").__next__() == manual[0]


def test_data_set(tmp_path, monkeypatch):
    calls = []

    class Rows(list):
        @property
        def column_names(self):
            return list(self[0])

    def load_dataset(name, split):
        calls.append((name, split))
        return Rows([{"title": "t", "body": "one"}, {"title": "u", "body": "two"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert read("hf:some/name:body") == [("some/name:train:0", "one"), ("some/name:train:1", "two")]
    assert [body for _, body in read("hf:some/name:title:test")] == ["t", "u"]
    assert calls == [("some/name", "train"), ("some/name", "test")]
    with pytest.raises(ValueError, match=r"no column 'text'; it has \['title', 'body'\]"):
        read("hf:some/name")
    with pytest.raises(ValueError, match=r"hf:NAME:COLUMN:SPLIT"):
        read("hf:a:b:c:d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs the package 'datasets'.*pip install 'exgate\[text\]'"):
        read("hf:some/name")


def test_data_set_of_the_real_package(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the package 'datasets' (extra 'text') is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_list([{"text": "one row"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    assert read("hf:some/name") == [("some/name:train:0", "one row")]


def test_missing_files_name_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "shakespeare.txt").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder '.*shakespear.txt'; did you mean '.*/shakespeare.txt'"
    ):
        read(str(tmp_path / "shakespear.txt"))
    with pytest.raises(FileNotFoundError, match=r"the folder '.*/nowhere' does not exist"):
        read(str(tmp_path / "nowhere" / "deep" / "a.txt"))
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*\*.text' in"):
        read(str(tmp_path / "*.text"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'python-manual'"):
        read("python_manual")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'shakespeare.txt'"):
        read("shakespeare.text")


def test_text_that_is_none(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"the source '.*empty.txt' holds no text"):
        read(str(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match=r"holds no text"):
        read(str(tmp_path))
    with pytest.raises(ValueError, match=r"no source of text"):
        read()


def test_text_that_is_not_utf8(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 noir")
    with pytest.raises(ValueError, match=r"latin.txt' is not UTF-8 text: byte 0xe9 at offset 3.*errors='replace'"):
        read(str(file))
    assert read(str(file), errors="replace")[0][1] == "caf\ufffd noir"
    assert read(str(file), errors="ignore")[0][1] == "caf noir"
    with pytest.raises(ValueError, match=r"errors='repair' is not a policy"):
        read(str(file), errors="repair")
    (tmp_path / "a.zip").write_bytes(b"PK\3\4\0\0")
    with pytest.raises(ValueError, match=r"a.zip' is a binary file.*unpack it first"):
        read(str(tmp_path / "a.zip"))


MANY = [(f"n{i}", f"document {i} " * (5 + i % 7)) for i in range(200)]


def test_split_by_document():
    train, validation = text.split(MANY, 0.1)
    assert sorted(train + validation) == sorted(MANY)
    size = sum(len(body) for _, body in validation) / sum(len(body) for _, body in MANY)
    assert 0.09 < size < 0.13
    # The contents decide: neither order nor names matter, and the seed does.
    again = text.split([(f"other {name}", body) for name, body in reversed(MANY)], 0.1)[1]
    assert {body for _, body in again} == {body for _, body in validation}
    assert {body for _, body in text.split(MANY, 0.1, seed=1)[1]} != {body for _, body in validation}
    assert text.split(MANY, 0.0) == (MANY, [])


def test_split_keeps_copies_together():
    train, validation = text.split(MANY + [(f"copy of {name}", body) for name, body in MANY], 0.2)
    assert validation
    assert not {body for _, body in train} & {body for _, body in validation}


def test_split_of_one_document_is_at_a_line_border():
    body = "".join(f"line {i} of the text\n" for i in range(500))
    told = []
    train, validation = text.split([("book", body)], 0.1, say=told.append)
    assert [len(part) for part in (train, validation)] == [1, 1]
    assert train[0][1] + validation[0][1] == body
    assert train[0][1].endswith("\n")
    assert 0.09 < len(validation[0][1]) / len(body) < 0.12
    assert len(told) == 1
    assert "'book' is cut" in told[0]
    # A small document beside it stays whole.
    train, validation = text.split([("book", body), ("note", "a note\n")], 0.1)
    assert ("note", "a note\n") in train
    assert len(validation) == 1


def test_split_of_few_lines_is_one_of_them():
    lines = [(f"line {i}", chr(97 + i) * (100 + i)) for i in range(12)]
    told = []
    train, validation = text.split(lines, 0.05, say=told.append)
    assert validation == lines[:1], "the one of the size that is nearest"
    assert train == lines[1:]
    assert "a whole one validates, 0.079 of the text" in told[0]
    assert text.split(lines[:2], 0.05) == (lines[1:2], lines[:1])


def test_split_that_cannot_be():
    with pytest.raises(ValueError, match=r"'line' has no line border"):
        text.split([("line", "just one line")], 0.1)
    with pytest.raises(ValueError, match=r"between 0 and 0.5"):
        text.split(MANY, 0.9)
