"""Files are written whole or not at all."""

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


def test_names_what_could_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        files.write(tmp_path / "file" / "b.txt", "")
