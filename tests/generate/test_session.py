"""Sessions in files: the same as in memory, whole or not at all, and refused by any other model."""

import os

import pytest
import torch
from safetensors.torch import save_file

from exgate.data.tokens import ByteTokenizer
from exgate.generate import session as sessions
from exgate.generate.sampling import generate
from exgate.generate.text import write
from exgate.models import lstm, xlstm
from exgate.ops.state import flatten

BYTES = ByteTokenizer()


def small(**changes):
    torch.manual_seed(0)
    return xlstm.build(
        xlstm.Config(**{"vocab_size": 272, "dim": 16, "blocks": 2, "heads": 2, "pattern": "ms"} | changes)
    )


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"seed": 3}], ids=["greedy", "sampled"])
def test_from_a_file_as_without_a_break(model, options, tmp_path):
    whole = write(model, BYTES, ["Once", "upon a"], max_tokens=40, end=None, **options)
    for first in (0, 13, 26):
        start = write(model, BYTES, ["Once", "upon a"], max_tokens=first, hold=True, end=None, **options)
        sessions.save(tmp_path / "s.safetensors", start.session, model, tokenizer="bytes")
        session = sessions.load(tmp_path / "s.safetensors", model, tokenizer="bytes")
        rest = {"session": session, "max_tokens": 40 - first, "end": None}
        rest |= {"temperature": options.get("temperature", 1.0)}
        assert [a + b for a, b in zip(start.texts, write(model, BYTES, **rest).texts, strict=True)] == whole.texts


def test_nothing_is_lost_in_a_file(model, tmp_path):
    session = write(model, BYTES, ["a€", "b"], max_tokens=5, hold=True, seed=1, stop=["xy"]).session
    session = sessions.replace(session, held=[[1, 2], []], text=[b"\xe2", b""])
    sessions.save(tmp_path / "s.safetensors", session, model)
    again = sessions.load(tmp_path / "s.safetensors", model)
    assert again.held == session.held
    assert again.text == session.text
    assert again.rows == 2
    for name in ("logits", "seen", "fed", "last", "random"):
        assert torch.equal(getattr(again, name), getattr(session, name)), name
    assert flatten(again.state).keys() == flatten(session.state).keys()
    assert type(again.state) is type(session.state)
    for name, tensor in flatten(again.state).items():
        assert torch.equal(tensor, flatten(session.state)[name])
    assert os.listdir(tmp_path) == ["s.safetensors"]


def test_rows_are_picked(model):
    start = generate(model, [[1, 2], [3], [4, 5, 6]], max_tokens=4, seed=7)
    rest = generate(model, session=start.session, max_tokens=8)
    picked = generate(model, session=start.session.select([2, 0, 2]), max_tokens=8)
    assert [row.tolist() for row in picked.tokens] == [rest.tokens[n].tolist() for n in (2, 0, 2)]
    fork = generate(model, session=start.session.select([1, 1]), max_tokens=8, seed=1)
    assert fork.tokens[0].tolist() != fork.tokens[1].tolist()


def test_another_model_refuses(tmp_path):
    model, path = small(), tmp_path / "s.safetensors"
    sessions.save(path, generate(model, [[1]], max_tokens=1).session, model, tokenizer="a")
    sessions.load(path, small(), tokenizer="a")
    for other, words in {
        small(dim=32): "state of another model: dim = 16 there and 32 here",
        small(pattern="sm"): "pattern = 'ms' there and 'sm' here",
        # The same shapes, and yet another function.
        small(forget_gate="exp"): "forget_gate = 'sigmoid' there and 'exp' here",
        lstm.build(lstm.Config(vocab_size=272, dim=16, layers=2)): "a model 'xlstm', but this model is 'lstm'",
    }.items():
        with pytest.raises(ValueError, match=words):
            sessions.load(path, other, tokenizer="a")
    with pytest.raises(ValueError, match="with another tokenizer"):
        sessions.load(path, model, tokenizer="b")
    trained = small()
    with torch.no_grad():
        trained.norm.weight.add_(0.1)
    with pytest.raises(ValueError, match="of the same shape with other weights"):
        sessions.load(path, trained, tokenizer="a")


def test_one_model_in_two_precisions_is_one_model(tmp_path):
    model = small()
    sessions.save(tmp_path / "s.safetensors", generate(model, [[1]], max_tokens=1).session, model)
    half = sessions.load(tmp_path / "s.safetensors", small().to(torch.bfloat16))
    assert len(generate(small().to(torch.bfloat16), session=half, max_tokens=3).tokens[0]) == 3


def test_missing_and_damaged_files_are_told(tmp_path):
    model, path = small(), tmp_path / "s.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no state file"):
        sessions.load(path, model)
    sessions.save(path, generate(model, [[1]], max_tokens=1).session, model)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-50], b"hello" * 20):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged, or no state file"):
            sessions.load(path, model)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is no state file"):
        sessions.load(path, model)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = small(), tmp_path / "s.safetensors"
    session = generate(model, [[1]], max_tokens=1).session
    sessions.save(path, session, model)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        with open(file, "wb") as stream:
            stream.write(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(sessions, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        sessions.save(path, session, model)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.safetensors"]
