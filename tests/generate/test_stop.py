"""Stop sequences wherever they fall, against a search in the whole sequence."""

import random

import pytest

from exgate.generate.stop import StopFilter


def run(text: str, stops: list[str]) -> tuple[str, bool]:
    """What is shown of a text fed letter by letter, and whether a stop came."""
    stop = StopFilter([[ord(letter) for letter in word] for word in stops])
    shown = "".join(chr(item) for letter in text for item in stop.feed(ord(letter)))
    if not stop.hit:
        shown += "".join(map(chr, stop.close()))
    return shown, stop.hit


@pytest.mark.parametrize(
    ("text", "stops", "shown", "hit"),
    [
        ("hello", [], "hello", False),
        ("hello", ["l"], "he", True),
        ("hello", ["lo", "x"], "hel", True),
        ("aaab", ["aab"], "a", True),
        ("abcabd", ["abd"], "abc", True),
        ("ab", ["abc"], "ab", False),
        ("xcaby", ["ab", "cab"], "x", True),
        ("stop", ["stop"], "", True),
    ],
)
def test_by_hand(text, stops, shown, hit):
    assert run(text, stops) == (shown, hit)


def test_against_a_search():
    for number in range(2000):
        letters = random.Random(number)
        text = "".join(letters.choices("ab", k=letters.randint(0, 12)))
        stops = ["".join(letters.choices("ab", k=letters.randint(1, 4))) for _ in range(letters.randint(1, 3))]
        # The stop that is complete first; of several that end there, the longest.
        ends = [(text.index(word) + len(word), -len(word)) for word in stops if word in text]
        expected = (text[: min(ends)[0] + min(ends)[1]], True) if ends else (text, False)
        assert run(text, stops) == expected, (text, stops)


def test_nothing_is_shown_that_may_be_taken_back():
    stop = StopFilter([(1, 2, 3)])
    assert [stop.feed(item) for item in (5, 1, 2, 1, 2, 4)] == [[5], [], [], [1, 2], [], [1, 2, 4]]
    assert stop.held == []


def test_after_a_stop_nothing_comes():
    stop = StopFilter([(1,)])
    assert [stop.feed(item) for item in (0, 1, 0)] == [[0], [], []]
    assert stop.hit
    assert stop.held == []
    assert stop.close() == []


def test_goes_on_where_another_left():
    first = StopFilter([(1, 2, 3)])
    assert [first.feed(item) for item in (0, 1, 2)] == [[0], [], []]
    assert first.close() == [1, 2]
    assert first.held == [1, 2]
    second = StopFilter([(1, 2, 3)], held=first.held, shown=2)
    assert second.feed(3) == []
    assert second.hit
    other = StopFilter([(1, 2, 3)], held=first.held, shown=2)
    assert other.feed(4) == [4]
    assert not other.hit
    third = StopFilter([(1, 2, 3)], held=first.held, shown=2)
    assert third.feed(1) == []
    assert third.close() == [1]


def test_an_empty_stop_is_refused():
    with pytest.raises(ValueError, match="a stop sequence is empty"):
        StopFilter([[1], []])
