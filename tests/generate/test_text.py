"""Text from tokens: whole characters only, stop strings never shown, and texts in two parts as in one."""

import pytest
import torch

from exgate.data.tokens import ByteTokenizer
from exgate.generate.text import TextStream, complete, write
from exgate.models import lstm

BYTES = ByteTokenizer()


def pieces(text: str, stop: list[str], **options) -> tuple[list[str], TextStream]:
    stream = TextStream(BYTES, stop, **options)
    return [stream.feed(byte) for byte in text.encode()], stream


def test_characters_come_whole():
    shown, stream = pieces("aé€😀b", [])
    assert shown == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]
    assert stream.close() == ""
    assert stream.held == b""


def test_what_never_becomes_a_character_is_marked():
    stream = TextStream(BYTES)
    assert [stream.feed(byte) for byte in (0xE2, 0x82)] == ["", ""]
    assert stream.held == b"\xe2\x82"
    assert stream.close() == "\N{REPLACEMENT CHARACTER}"
    stream = TextStream(BYTES)
    assert "".join(stream.feed(byte) for byte in (0xFF, 0x41)) == "\N{REPLACEMENT CHARACTER}A"


def test_a_stop_string_is_not_shown_in_part():
    shown, stream = pieces("ab\n\nQ: x", ["\n\nQ:"])
    assert shown == ["a", "b", "", "", "", "", "", ""]
    assert stream.stopped
    assert stream.close() == ""
    shown, stream = pieces("a\n\nb", ["\n\nQ:"])
    assert shown == ["a", "", "", "\n\nb"]
    assert not stream.stopped
    shown, stream = pieces("né", ["é"])
    assert shown == ["n", "", ""]
    assert stream.stopped


@pytest.mark.parametrize("place", range(len("xa€stóp y".encode()) + 1))
@pytest.mark.parametrize("stop", [[], ["stóp"], ["€st", "zz"], ["never"]])
def test_held_text_goes_on_in_another_stream(place, stop):
    data = "xa€stóp y".encode()
    whole = TextStream(BYTES, stop)
    expected = "".join(map(whole.feed, data)) + ("" if whole.stopped else whole.close())
    first = TextStream(BYTES, stop)
    text = "".join(map(first.feed, data[:place]))
    if not first.stopped:
        second = TextStream(BYTES, stop, held=first.held)
        text += "".join(map(second.feed, data[place:])) + ("" if second.stopped else second.close())
    assert text == expected


def test_held_text_is_shown_where_it_no_longer_begins_a_stop():
    _, first = pieces("a st", ["stop"])
    assert first.held == b"st"
    second = TextStream(BYTES, ["other"], held=first.held)
    assert second.held == b"st"
    assert second.feed(ord("x")) == "stx"


def test_spaces_between_words_of_a_tokenizer_that_writes_them_there():
    class Words:
        def decode_bytes(self, ids):
            return " ".join(["one", "two", "three"][i] for i in ids).encode()

    stream = TextStream(Words(), previous=0)
    assert [stream.feed(token) for token in (1, 2, 0)] == [" two", " three", " one"]
    assert TextStream(Words()).feed(1) == "two"


OPTIONS = [{"temperature": 0.0}, {"seed": 3}]


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "sampled"])
def test_the_text_is_that_of_the_tokens(model, options):
    shown = ["", ""]

    def show(row: int, text: str) -> None:
        assert text
        shown[row] += text

    writing = write(model, BYTES, ["Once", "Ünd dann"], max_tokens=40, on_text=show, end=None, **options)
    assert writing.texts == [BYTES.decode(row.tolist()) for row in writing.generation.tokens] == shown
    assert writing.session.text == [b"", b""]
    # A prompt begins a document, as in training.
    by_tokens = model.generate([[BYTES.end, *b"Once"]], max_tokens=40, vocab_size=257, **options)
    assert by_tokens.tokens[0].tolist() == writing.generation.tokens[0].tolist()
    assert complete(model, BYTES, "Once", max_tokens=40, end=None, **options) == writing.texts[0]


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "sampled"])
def test_in_two_parts_as_in_one(model, options):
    """Also where the break is inside a character or a stop string."""
    options = dict(options)
    # All bytes, and so many halves of characters; or ASCII alone, so that there are strings to stop at.
    for size in (257, 128):
        options["vocab_size"] = size
        text = whole = complete(model, BYTES, "Once", max_tokens=40, **options)
        stop = [text[20:23]] if size == 128 else []
        if stop:
            whole = complete(model, BYTES, "Once", max_tokens=40, stop=stop, **options)
            assert whole == text[: text.index(stop[0])]
        for first in range(1, 40, 6) if not stop else range(max(0, len(whole) - 2), len(whole) + 5):
            start = write(model, BYTES, ["Once"], max_tokens=first, stop=stop, hold=True, **options)
            both = start.texts[0]
            if start.generation.finished == ["length"]:
                rest = {name: value for name, value in options.items() if name != "seed"}
                rest |= {"max_tokens": 40 - first, "stop": stop, "session": start.session}
                both += write(model, BYTES, **rest).texts[0]
            assert both == whole


def test_an_empty_prompt_begins_a_document(model):
    text = complete(model, BYTES, "", max_tokens=20, temperature=0)
    assert text == BYTES.decode(
        model.generate([[256]], max_tokens=20, temperature=0, vocab_size=257, end=256).tokens[0]
    )


def test_the_end_of_the_document_ends_the_text(model):
    writing = write(model, BYTES, [""] * 50, max_tokens=60, seed=0, temperature=1.5)
    ended = [row for row, reason in enumerate(writing.generation.finished) if reason == "end"]
    assert ended
    assert all(256 not in row.tolist() for row in writing.generation.tokens)


def test_mistakes_are_told(model):
    class Large(ByteTokenizer):
        vocab_size = 300

    with pytest.raises(ValueError, match="tokenizer has 300 tokens, but this model knows 272"):
        complete(model, Large(), "a", max_tokens=1)
    with pytest.raises(ValueError, match="neither prompts nor a session"):
        write(model, BYTES, max_tokens=1)
    session = write(model, BYTES, ["a", "b"], max_tokens=1).session
    with pytest.raises(ValueError, match="3 prompts for a session of 2 rows"):
        write(model, BYTES, ["", "", ""], max_tokens=1, session=session)
    assert torch.equal(write(model, BYTES, max_tokens=0, session=session).session.logits, session.logits)


def test_a_text_begins_with_the_models_own_token():
    """A model that was read from elsewhere says which token its texts begin with; ours begin with the one that ends."""
    model = lstm.build(lstm.Config(vocab_size=257, dim=8, layers=1))
    read = []
    model.embed.register_forward_hook(lambda module, args, output: read.append(args[0]))
    for special, first in (({}, BYTES.end), ({"bos_token_id": None}, BYTES.end), ({"bos_token_id": 7}, 7)):
        vars(model)["special_tokens"] = special
        read.clear()
        complete(model, BYTES, "ab", max_tokens=1)
        assert read[0][0].tolist() == [first, *b"a"]  # the last token is read by the step after it
