"""Files are written whole or not at all."""

import os
import subprocess
import sys

import pytest

from exgate import files


def test_takes_its_place_at_the_end(tmp_path):
    path = files.write(tmp_path / "a" / "b.txt", "old\n")
    with files.replaced(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_text() == "old\n"
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_error_all_is_as_it_was(tmp_path, before):
    path = tmp_path / "b.txt"
    if before is not None:
        path.write_text(before)

    def stopped():
        with files.replaced(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_files_that_belong_together_appear_together(tmp_path):
    folder = tmp_path / "model"
    for text in ("old", "new"):
        with files.filled(folder) as new:
            for name in ("a", "b"):
                (new / name).write_text(text)
            if text == "old":
                assert not (folder / "a").exists()
    (folder / "README").write_text("mine")

    def stopped():
        with files.filled(folder) as new:
            (new / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"a": "new", "b": "new", "README": "mine"}


@pytest.mark.skipif(os.name != "posix", reason="elsewhere nothing tells whether a process lives")
def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / f".b.txt.{process.pid}").write_text("half")
    (tmp_path / f".b.txt.{os.getppid()}").write_text("someone else is writing")
    files.write(tmp_path / "b.txt", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"b.txt", f".b.txt.{os.getppid()}"}


def test_names_what_could_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        files.write(tmp_path / "file" / "b.txt", "")
