"""Tokenizers: lossless, deterministic, saved and loaded, and refused when they do not fit."""

from __future__ import annotations

import json
import sys

import pytest

from exgate.data import text, tokens
from exgate.data.tokens import BPETokenizer, ByteTokenizer

HARD = [
    "",
    "plain words",
    "naïve ☃ 日本語 😀\r\n\t\0 end  ",
    "<|end|> is spelled <|endoftext|>",
    " leading",
    "\x7f\u200b'll",
]


@pytest.fixture(scope="module")
def manual() -> list[str]:
    return [body for _, body in text.documents("python-manual")][:20]


@pytest.fixture(scope="module")
def bpe(manual) -> BPETokenizer:
    pytest.importorskip("tokenizers", reason="the package 'tokenizers' (extra 'text') is not installed")
    return BPETokenizer.train(manual, 600)


@pytest.fixture(params=["bytes", "bpe"])
def tokenizer(request):
    return ByteTokenizer() if request.param == "bytes" else request.getfixturevalue("bpe")


def test_round_trip(tokenizer, manual):
    for body in [*HARD, *manual[:3]]:
        ids = tokenizer.encode(body)
        assert tokenizer.decode(ids) == body
        assert tokenizer.decode_bytes(ids) == body.encode()
        assert tokenizer.end not in ids
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
    # Bytes can be had one token at a time: that is how a stream is printed.
    assert b"".join(tokenizer.decode_bytes([i]) for i in tokenizer.encode(HARD[2])) == HARD[2].encode()
    assert tokens.encoded(tokenizer, HARD) == [tokenizer.encode(body) for body in HARD]


def test_ids_that_are_no_bytes(tokenizer):
    assert tokenizer.decode([tokenizer.end]) == ""
    assert tokenizer.decode([tokenizer.vocab_size + 3, *tokenizer.encode("a"), -1]) == "\ufffda\ufffd"


def test_save_and_load(tokenizer, tmp_path):
    file = tokenizer.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    for path in (tmp_path, file, str(tmp_path)):
        again = tokens.load(path)
        assert type(again) is type(tokenizer)
        assert (again.vocab_size, again.end) == (tokenizer.vocab_size, tokenizer.end)
        assert again.fingerprint == tokenizer.fingerprint
        assert [again.encode(body) for body in HARD] == [tokenizer.encode(body) for body in HARD]


def test_bytes_are_the_documented_ids():
    assert ByteTokenizer().encode("aé") == [97, 0xC3, 0xA9]
    assert (ByteTokenizer.vocab_size, ByteTokenizer.end) == (257, 256)


def test_bpe_training(bpe, manual):
    assert bpe.vocab_size == 600
    assert BPETokenizer.train(manual, 600).fingerprint == bpe.fingerprint
    assert BPETokenizer.train(manual[1:], 600).fingerprint != bpe.fingerprint
    body = manual[0]
    assert len(bpe.encode(body)) < 0.7 * len(body.encode())
    with pytest.raises(ValueError, match=r"vocab_size=100, but the 256 bytes"):
        BPETokenizer.train(manual, 100)


def test_published_bpe_file(bpe, tmp_path):
    # As GPT-2's: the end token has another name and the last id.
    content = json.loads(bpe.save(tmp_path).read_text())
    content["added_tokens"][0]["content"] = "<|endoftext|>"
    content["model"]["vocab"] = {
        ("<|endoftext|>" if k == tokens.END else k): v for k, v in content["model"]["vocab"].items()
    }
    (tmp_path / "gpt.json").write_text(json.dumps(content))
    assert tokens.load(tmp_path / "gpt.json").end == bpe.end
    content["added_tokens"][0]["content"] = "<odd>"
    content["model"]["vocab"] = {
        ("<odd>" if k == "<|endoftext|>" else k): v for k, v in content["model"]["vocab"].items()
    }
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no token for the end of a document: looked for <\|end\|>"):
        tokens.load(tmp_path / "odd.json")


def test_load_says_what_is_wrong(bpe, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json; this model came without a tokenizer"):
        tokens.load(tmp_path)
    file = bpe.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer .* '.*tokeniser.json'; did you mean '.*tokenizer.json'"):
        tokens.load(tmp_path / "tokeniser.json")
    whole = file.read_text()
    for content, words in [
        (whole[:1000], "is not JSON .*damaged"),
        ('{"vocab": {}}', r"has the keys \['vocab'\]"),
        ("[1]", "has a list"),
        ('{"model": {"type": "Magic"}}', "is no tokenizer that the package 'tokenizers' can read"),
        ('{"exgate": "bytes", "vocab_size": 300, "end": 299}', "byte tokenizer with other ids"),
    ]:
        file.write_text(content)
        with pytest.raises(ValueError, match=words):
            tokens.load(tmp_path)


def test_wrong_tokenizer_for_a_model():
    tokenizer = ByteTokenizer()
    for size in (257, 264, 320, 384):
        tokens.check(tokenizer, size)
    for size in (256, 600, 50304):
        with pytest.raises(ValueError, match=f"it has 257 tokens, but the model's vocabulary has {size}"):
            tokens.check(tokenizer, size)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"training a BPE tokenizer needs the package 'tokenizers'.*exgate\[text\]"):
        BPETokenizer.train(["a"], 300)
