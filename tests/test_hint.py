"""The right name that is most like a wrong one."""

from pathlib import Path

from exgate import hint


def test_the_nearest_name_or_all_of_them():
    assert hint.unknown("lstn", ["xlstm", "lstm"], what="model") == "unknown model 'lstn'. Did you mean 'lstm'?"
    assert hint.near("zzz", {"lstm": 1, "rnn": 2}) == "There are: lstm, rnn."


def test_the_nearest_path(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").touch()
    assert hint.beside(tmp_path / "tokeniser.json") == tmp_path / "tokenizer.json"
    assert hint.beside(tmp_path / "z") is None
    assert hint.beside(tmp_path / "nowhere" / "tokenizer.json") is None
    assert hint.beside(tmp_path / "python_manual", "python-manual") == tmp_path / "python-manual"
    monkeypatch.chdir(tmp_path)
    assert hint.beside(Path("tokenizer")) == Path("tokenizer.json")
