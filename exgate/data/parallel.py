"""Parallel text: pairs of sentences from files, batches of them by length, and a small language pair without files."""

import gzip
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from exgate.data import tokens as tokenizers
from exgate.data.tokens import Tokenizer

IGNORED = -100
Pair = tuple[list[int], list[int]]  # the tokens of a source and of its target, without start and end


class Batch(NamedTuple):
    """Pairs side by side, padded at their ends.

    Args:
        source: (B, S), each row with the end token at its end, so that no row is empty.
        lengths: (B,) of the source's rows, on the CPU.
        tokens: (B, T), the start token and the target: what the decoder reads.
        targets: (B, T), the target and the end token: what it should say; -100 in the padding.
    """

    source: Tensor
    lengths: Tensor
    tokens: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """On another device; lengths stay."""
        return Batch(self.source.to(device), self.lengths, self.tokens.to(device), self.targets.to(device))


def read(folder: str | Path, split: str, source: str, target: str) -> list[tuple[str, str]]:
    """The pairs of sentences of `split.SOURCE` and `split.TARGET`, one a line (.gz too), as Multi30k comes.

    Args:
        split: "train", "val", "test" and the like; a longer name will do, if it is the only one (test_2016_flickr).
        source, target: the ending of the files' names, usually a language: "de", "en".
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: several fit the name, or the two sides differ in their number of lines.
    """
    sides = [_lines(_file(Path(folder), split, language)) for language in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"parallel: '{split}' in '{folder}' has {len(sides[0])} lines of {source} and {len(sides[1])} of {target}; "
            "line n of one should be the translation of line n of the other"
        )
    return list(zip(*sides, strict=True))


def _file(folder: Path, split: str, language: str) -> Path:
    for names in (f"{split}.{language}", f"{split}*.{language}"):
        found = sorted({*folder.glob(names), *folder.glob(names + ".gz")})
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(file.name for file in found)
            raise ValueError(f"parallel: several files of '{folder}' fit '{names}': {listed}. Give a whole name.")
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
    raise FileNotFoundError(f"parallel: there is no '{split}.{language}' in '{folder}' (there: {there})")


def _lines(file: Path) -> list[str]:
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [line.strip() for line in data.decode("utf-8").removesuffix("\n").split("\n")]


def encode(pairs: Sequence[tuple[str, str]], source: Tokenizer, target: Tokenizer) -> list[Pair]:
    """The pairs as tokens, each side by its own tokenizer (or both by the same one)."""
    sides = [
        tokenizers.encoded(tokenizer, [pair[side] for pair in pairs]) for side, tokenizer in enumerate((source, target))
    ]
    return list(zip(*sides, strict=True))


def collate(pairs: Sequence[Pair], *, source_end: int, start: int, end: int) -> Batch:
    """Pairs -> a batch.

    Args:
        source_end: the token after each source.
        start, end: the tokens before and after each target; they may be the same.
    """
    sources = [torch.tensor([*source, source_end]) for source, _ in pairs]
    inputs = [torch.tensor([start, *target]) for _, target in pairs]
    outputs = [torch.tensor([*target, end]) for _, target in pairs]
    pad = torch.nn.utils.rnn.pad_sequence
    return Batch(
        pad(sources, True, padding_value=source_end),
        torch.tensor([len(row) for row in sources]),
        pad(inputs, True, padding_value=end),
        pad(outputs, True, padding_value=IGNORED),
    )


def batches(
    pairs: Sequence[Pair], size: int, *, source_end: int, start: int, end: int, seed: int | None = None, pool: int = 50
) -> Iterator[Batch]:
    """All pairs once, in batches of sentences of about the same length.

    Pairs are shuffled, sorted by length within pools of `pool` batches, cut into batches, and those are shuffled.

    Args:
        size: pairs per batch; the last one may have fewer.
        source_end, start, end: as in `collate`.
        seed: of the order; None keeps the order that is given, unsorted: what an evaluation needs.
    Raises:
        ValueError: there are no pairs, or size is less than 1.
    """
    if not pairs or size < 1:
        raise ValueError(f"parallel: {len(pairs)} pairs in batches of {size}; both should be at least 1")
    order = list(range(len(pairs)))
    groups = [order[begin : begin + size] for begin in range(0, len(order), size)]
    if seed is not None:
        chance = random.Random(seed)
        chance.shuffle(order)
        groups = []
        for begin in range(0, len(order), pool * size):
            part = sorted(order[begin : begin + pool * size], key=lambda n: (len(pairs[n][0]), len(pairs[n][1])))
            groups += [part[at : at + size] for at in range(0, len(part), size)]
        chance.shuffle(groups)
    for group in groups:
        yield collate([pairs[n] for n in group], source_end=source_end, start=start, end=end)


_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_ONES, _TENS = _WORDS.split()[:20], _WORDS.split()[20:]


def number_pairs(count: int, seed: int = 0, *, below: int = 1_000_000) -> list[tuple[str, str]]:
    """A language pair that needs no files: ("three hundred and twenty-one", "321"), numbers below a million.

    Short numbers are as frequent as long ones, and so come more than once.
    """
    chance = random.Random(seed)
    lengths = [length for length in range(1, 7) if 10 ** (length - 1) < below]
    numbers = [min(below - 1, chance.randrange(10 ** chance.choice(lengths))) for _ in range(count)]
    return [(_words(number), str(number)) for number in numbers]


def _words(n: int) -> str:
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10 - 2] + (f"-{_ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{_ONES[n // 100]} hundred" + (f" and {_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    joint = " and " if rest < 100 else " "
    return f"{_words(n // 1000)} thousand" + (joint + _words(rest) if rest else "")
