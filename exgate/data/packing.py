"""Documents packed into windows of tokens for training, in a fixed order that can be resumed at any place."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from exgate.data import tokens as tokenizers
from exgate.data.text import Document
from exgate.data.tokens import Tokenizer

TOKENS, INDEX, META = "tokens.bin", "docs.idx", "meta.json"
_VERSION = 1


class Corpus:
    """Documents as one row of tokens: the end token, the first document, the end token, the second, ..., the end token.

    So each document's first token is predicted from the end token alone, and its last token predicts the end token.

    Attributes:
        tokens: (N,) unsigned integers, in memory or mapped from a file.
        starts: (D,) where each document's leading end token stands.
        text_bytes, text_words: (D,) length of each document in UTF-8, and in words (what `str.split` leaves).
        names: the documents' names where they are known (not kept in a prepared folder).
    """

    def __init__(
        self,
        tokens: np.ndarray,
        starts: np.ndarray,
        text_bytes: np.ndarray,
        text_words: np.ndarray,
        names: list[str] | None = None,
    ):
        self.tokens, self.starts, self.names = tokens, starts, names
        self.text_bytes, self.text_words = text_bytes, text_words

    @classmethod
    def encode(cls, docs: Iterable[Document], tokenizer: Tokenizer) -> "Corpus":
        """Tokenizes documents into memory. Raises ValueError if there are none."""
        pieces, index, names, start = [], [], [], 0
        for ids, size, words, name in _encoded(docs, tokenizer):
            pieces.append(ids)
            index.append((start, size, words))
            names.append(name)
            start += len(ids)
        pieces.append(_array([tokenizer.end], tokenizer))
        starts, sizes, words = np.array(index, np.int64).T.copy()
        return cls(np.concatenate(pieces), starts, sizes, words, names)

    @classmethod
    def prepare(cls, docs: Iterable[Document], tokenizer: Tokenizer, folder: str | os.PathLike[str]) -> "Corpus":
        """Tokenizes documents into a folder, one after the other, and opens it: for text larger than memory.

        The folder appears whole or not at all: `tokens.bin`, `docs.idx` (three int64 per document: start, bytes,
        words) and `meta.json`.
        """
        final = Path(folder)
        temporary = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            count, start = 0, 0
            with open(temporary / TOKENS, "wb") as stream, open(temporary / INDEX, "wb") as index:
                for ids, size, words, _ in _encoded(docs, tokenizer):
                    stream.write(ids.tobytes())
                    index.write(np.array([start, size, words], np.int64).tobytes())
                    start += len(ids)
                    count += 1
                stream.write(_array([tokenizer.end], tokenizer).tobytes())
                for file in (stream, index):
                    file.flush()
                    os.fsync(file.fileno())
            meta = {
                "version": _VERSION,
                "tokenizer": tokenizer.fingerprint,
                "dtype": str(_dtype(tokenizer)),
                "tokens": start + 1,
                "documents": count,
            }
            with open(temporary / META, "w", encoding="utf-8") as stream:
                json.dump(meta, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.load(final, tokenizer)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], tokenizer: Tokenizer) -> "Corpus":
        """Opens a prepared folder; the tokens stay on disk.

        Raises:
            FileNotFoundError: it is not a prepared folder.
            ValueError: it was made with another tokenizer, or is damaged.
        """
        folder = Path(folder)
        if not (folder / META).exists():
            raise FileNotFoundError(f"packing: '{folder}' is not a prepared folder of tokens: it has no {META}")
        remedy = "delete the folder, and it is made again"
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            fingerprint, documents, count, dtype = (meta[k] for k in ("tokenizer", "documents", "tokens", "dtype"))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"packing: '{folder / META}' is damaged ({error}); {remedy}") from None
        if fingerprint != tokenizer.fingerprint:
            raise ValueError(f"packing: the tokens in '{folder}' were made with another tokenizer; {remedy}")
        for name, size in ((TOKENS, count * np.dtype(dtype).itemsize), (INDEX, documents * 24)):
            has = (folder / name).stat().st_size if (folder / name).exists() else 0
            if has != size:
                raise ValueError(f"packing: '{folder / name}' has {has} bytes instead of {size}; {remedy}")
        index = np.fromfile(folder / INDEX, np.int64).reshape(documents, 3)
        starts, sizes, words = index.T.copy()
        return cls(np.memmap(folder / TOKENS, dtype, mode="r"), starts, sizes, words)

    @property
    def targets(self) -> int:
        """How many tokens there are to predict: those of the documents, and the end of each."""
        return len(self.tokens) - 1

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the text per predicted token: nats per token / bytes per token / ln 2 is bits per byte."""
        return float(self.text_bytes.sum()) / self.targets

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the documents' borders and of the tokens at both ends (of a short corpus, all of it)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.starts).tobytes())
        for part in (self.tokens[: 1 << 20], self.tokens[-(1 << 20) :]):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    def document(self, number: int) -> list[int]:
        """The tokens of one document, without the end tokens around it."""
        stop = self.starts[number + 1] if number + 1 < len(self.starts) else len(self.tokens) - 1
        return self.tokens[self.starts[number] + 1 : stop].tolist()

    def names_between(self, start: int, stop: int) -> list[str]:
        """The documents that positions start..stop-1 touch, by name or by number."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, max(start, stop - 1), side="right")) - 1
        return [self.names[i] if self.names else f"document {i}" for i in range(first, last + 1)]


class Batch(NamedTuple):
    """One batch of windows.

    tokens and targets: (B, T) int64, targets[:, t] being the token after tokens[:, t]; reset: (B, T) bool, true where
    a document begins (at its leading end token). starts: the B places of the windows in the corpus.
    """

    tokens: Tensor
    targets: Tensor
    reset: Tensor
    starts: tuple[int, ...]


class Windows:
    """An endless iterator of batches over a corpus, in an order that depends on the seed alone.

    Shuffled (the default): the corpus is cut into windows of T tokens, read in a new order each epoch; each window
    starts from the empty state. The cut is moved each epoch, so that no token is always the one left over.
    Stateful: the corpus is cut into B parallel streams that are read from their beginnings to their ends; row b of a
    batch continues row b of the one before, so the state may be carried (truncated backpropagation through time).
    Each epoch begins with `reset`.

    `position` is all there is to save; `seek(position)` goes on from there, at no cost.

    Args:
        batch: B, windows per batch.
        window: T, tokens per window.
    Raises:
        ValueError: the corpus is too short for one window (stateful: for one batch).
    """

    def __init__(self, corpus: Corpus, *, batch: int, window: int, stateful: bool = False, seed: int = 0):
        need, what = (batch * window, "one batch of windows") if stateful else (window, "one window")
        if batch < 1 or window < 1:
            raise ValueError(f"packing: batch={batch} and window={window} must both be at least 1")
        if corpus.targets < need:
            raise ValueError(
                f"packing: the text has {corpus.targets} tokens, fewer than {what} ({batch} x {window}); "
                "give more text, or make the window or the batch smaller"
            )
        self.corpus, self.batch, self.window, self.stateful, self.seed = corpus, batch, window, stateful, seed
        # Shuffled: windows per epoch. Stateful: batches per epoch.
        self.per_epoch = corpus.targets // batch // window if stateful else corpus.targets // window
        self._epoch, self._index = 0, 0
        self._order: tuple[int, int, np.ndarray] | None = None

    @property
    def position(self) -> dict[str, int]:
        """Where the next batch begins: the epoch, and the window (stateful: the batch) within it."""
        return {"epoch": self._epoch, "index": self._index}

    def seek(self, position: dict[str, int]) -> None:
        """Goes to a position. Raises ValueError if this corpus has no such place."""
        epoch, index = position["epoch"], position["index"]
        if epoch < 0 or not 0 <= index < self.per_epoch:
            raise ValueError(f"packing: no position {position} in epochs of {self.per_epoch}: is it another text?")
        self._epoch, self._index = epoch, index

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self.stateful:
            stream = self.corpus.targets // self.batch
            starts = [row * stream + self._index * self.window for row in range(self.batch)]
            first = self._index == 0
            self._step()
            return self._gather(starts, first=first)
        starts = []
        for _ in range(self.batch):
            offset, order = self._cut(self._epoch)
            starts.append(offset + int(order[self._index]) * self.window)
            self._step()
        return self._gather(starts)

    def _step(self) -> None:
        self._index += 1
        if self._index == self.per_epoch:
            self._epoch, self._index = self._epoch + 1, 0

    def _cut(self, epoch: int) -> tuple[int, np.ndarray]:
        """Offset of the first window, and the order of the windows, in an epoch."""
        if self._order is None or self._order[0] != epoch:
            # Raw bits of a bit generator never change between versions of numpy; what is made from them may.
            bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(self.per_epoch + 1)
            offset = int(bits[0]) % (self.corpus.targets - self.per_epoch * self.window + 1)
            self._order = (epoch, offset, np.argsort(bits[1:], kind="stable"))
        return self._order[1:]

    def _gather(self, starts: list[int], first: bool = False) -> Batch:
        rows = np.stack([self.corpus.tokens[start : start + self.window + 1] for start in starts]).astype(np.int64)
        reset = np.zeros((self.batch, self.window), bool)
        for row, start in enumerate(starts):
            low, high = np.searchsorted(self.corpus.starts, [start, start + self.window])
            reset[row, self.corpus.starts[low:high] - start] = True
        if first:
            reset[:, 0] = True
        both = torch.from_numpy(rows)
        return Batch(both[:, :-1].contiguous(), both[:, 1:].contiguous(), torch.from_numpy(reset), tuple(starts))

    def describe(self, batch: Batch) -> str:
        """Where a batch came from, in words: places in the corpus and the documents there."""
        parts = []
        for start in batch.starts[:4]:
            names = self.corpus.names_between(start, start + self.window)
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            parts.append(f"tokens {start}..{start + self.window - 1} of {', '.join(names[:2])}{more}")
        more = f"; and {len(batch.starts) - 4} windows more" if len(batch.starts) > 4 else ""
        return "; ".join(parts) + more


def _encoded(docs: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, int, int, str]]:
    """Tokens with a leading end token, bytes, words and name of each document; in groups: BPE uses all cores."""
    docs, any_text = iter(docs), False
    while group := list(islice(docs, 256)):
        any_text = True
        for (name, text), ids in zip(group, tokenizers.encoded(tokenizer, [text for _, text in group]), strict=True):
            yield _array([tokenizer.end, *ids], tokenizer), len(text.encode("utf-8")), len(text.split()), name
    if not any_text:
        raise ValueError("packing: no documents to encode; give at least one with text in it")


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _array(ids: list[int], tokenizer: Tokenizer) -> np.ndarray:
    return np.array(ids, _dtype(tokenizer))
