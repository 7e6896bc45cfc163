"""Stop sequences, of token ids or of bytes: found across steps, and never shown."""

from collections.abc import Iterable, Sequence


class StopFilter:
    """Passes items on until one of `stops` has come by; holds back what may still become one.

    Args:
        stops: sequences of ints (token ids, or the bytes of a string).
        held: what an earlier filter held back when it was left.
        shown: how many items of `held` were given out then nevertheless.
    Raises:
        ValueError: a stop sequence is empty.
    """

    def __init__(self, stops: Iterable[Sequence[int]] = (), *, held: Iterable[int] = (), shown: int = 0) -> None:
        self.stops = [tuple(stop) for stop in stops]
        if not all(self.stops):
            raise ValueError("generate: a stop sequence is empty, and would stop before the first token. Leave it out.")
        self.hit = False
        self._held = list(held)
        self._shown = shown

    @property
    def held(self) -> list[int]:
        """The items at the end that may begin a stop sequence."""
        return list(self._held)

    def feed(self, item: int) -> list[int]:
        """The items that are safe to show after `item`. After a stop, `hit` is true and nothing more comes."""
        if self.hit:
            return []
        self._held.append(item)
        whole = max((len(stop) for stop in self.stops if self._ends(stop)), default=0)
        if whole:
            self.hit = True
            released = self._release(len(self._held) - whole)
            self._held = []
            return released
        return self._release(len(self._held) - self._beginning())

    def close(self) -> list[int]:
        """What is still held back and was not shown: the end came before a stop sequence did. It stays in `held`."""
        released = self._held[self._shown :]
        self._shown = len(self._held)
        return released

    def _ends(self, part: Sequence[int]) -> bool:
        return len(part) <= len(self._held) and tuple(self._held[len(self._held) - len(part) :]) == tuple(part)

    def _beginning(self) -> int:
        """The length of the longest end of what is held that begins a stop sequence."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(len(stop) > length and self._ends(stop[:length]) for stop in self.stops):
                return length
        return 0

    def _release(self, count: int) -> list[int]:
        released = self._held[self._shown : count]
        self._held = self._held[count:]
        self._shown = max(0, self._shown - count)
        return released
