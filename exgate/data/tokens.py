"""Tokenizers: bytes, which need nothing, and byte-level BPE, trained or loaded through the package `tokenizers`.

Both have `encode`, `decode`, `decode_bytes`, `vocab_size`, `end` (the id that stands between documents), `fingerprint`
and `save`; `load` opens either. A tokenizer is one file, `tokenizer.json`, beside the model's weights.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from exgate import files, hint

FILE = "tokenizer.json"
END = "<|end|>"
# Names that published tokenizers give to the token between documents, ours first.
ENDS = (END, "<|endoftext|>", "</s>", "<eos>", "[EOS]", "<|end_of_text|>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255, and 256 between documents. Lossless for any text."""

    vocab_size = 257
    end = 256

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without a token for its beginning or end."""
        return list(text.encode("utf-8"))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids; the end of a document is no byte, an id out of the vocabulary is U+FFFD."""
        return b"".join(bytes((i,)) if 0 <= i < 256 else b"" if i == self.end else _REPLACEMENT for i in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that make no character are U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    @property
    def fingerprint(self) -> str:
        """A sum that tells this tokenizer from every other: prepared tokens keep it."""
        return hashlib.sha256(self._json().encode()).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `tokenizer.json` into a folder."""
        return files.write(Path(folder) / FILE, self._json())

    def _json(self) -> str:
        return json.dumps({"exgate": "bytes", "vocab_size": self.vocab_size, "end": self.end}) + "\n"


class BPETokenizer:
    """Byte-level byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over UTF-8 bytes, through `tokenizers`.

    Trained here it is lossless for any text: every byte is a token, and the end of a document cannot be spelled.
    """

    def __init__(self, tokenizer: Any, *, end: str | None = None):
        # Without this the words "<|end|>" inside a text would become the token that ends it.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        names = ENDS if end is None else (end,)
        ids = [i for i in map(tokenizer.token_to_id, names) if i is not None]
        if not ids:
            raise ValueError(
                f"tokens: the tokenizer has no token for the end of a document: looked for {', '.join(names)}; "
                "name its own with end="
            )
        self.end: int = ids[0]
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learns merges from the texts; the same texts give the same tokenizer.

        Args:
            vocab_size: tokens in all, at least 257: the 256 bytes and the end. Short texts may give fewer.
        """
        if vocab_size < 257:
            raise ValueError(f"tokens: vocab_size={vocab_size}, but the 256 bytes and the end of a document make 257")
        library = _library("training a BPE tokenizer")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            special_tokens=[END],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(iter(texts), trainer)
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without a token for its beginning or end."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that make no character are U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids; special tokens are no bytes, an id out of the vocabulary is U+FFFD."""
        if self._bytes is None:
            return self._tokenizer.decode(list(ids), skip_special_tokens=True).encode()
        table = self._bytes
        return b"".join(table[i] if 0 <= i < len(table) else _REPLACEMENT for i in ids)

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        """The bytes of each token, or None where the tokenizer is not byte-level."""
        if json.loads(self._tokenizer.to_str()).get("decoder", {}).get("type") != "ByteLevel":
            return None
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        plain = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if not token.special}
        value = _byte_of_letter()
        table = []
        for i in range(self.vocab_size):
            token = self._tokenizer.id_to_token(i)
            if i in special or token is None:
                table.append(b"")
            elif i in plain or any(letter not in value for letter in token):
                table.append(token.encode())
            else:
                table.append(bytes(value[letter] for letter in token))
        return table

    @property
    def fingerprint(self) -> str:
        """A sum that tells this tokenizer from every other: prepared tokens keep it."""
        return hashlib.sha256(self._json().encode()).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `tokenizer.json` into a folder."""
        return files.write(Path(folder) / FILE, self._json())

    def _json(self) -> str:
        return self._tokenizer.to_str(pretty=True) + "\n"


Tokenizer = ByteTokenizer | BPETokenizer


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a folder that holds `tokenizer.json`, or of such a file; one of `tokenizers`' own files will do.

    Raises:
        FileNotFoundError: there is none; the message names what is near.
        ValueError: the file is damaged or is something else.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE
        if not file.exists():
            raise FileNotFoundError(f"tokens: the folder '{path}' has no {FILE}; this model came without a tokenizer")
    elif not file.exists():
        near = hint.beside(file)
        advice = f"; did you mean '{near}'?" if near else ""
        raise FileNotFoundError(f"tokens: there is no tokenizer file or folder '{path}'{advice}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"tokens: '{file}' is not JSON ({error}): damaged, or not a tokenizer file") from None
    if isinstance(content, dict) and content.get("exgate") == "bytes":
        tokenizer = ByteTokenizer()
        if (content.get("vocab_size"), content.get("end")) != (tokenizer.vocab_size, tokenizer.end):
            raise ValueError(f"tokens: '{file}' is a byte tokenizer with other ids ({content}): not written by exgate")
        return tokenizer
    if not isinstance(content, dict) or "model" not in content:
        has = f"the keys {sorted(content)}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise ValueError(f"tokens: '{file}' has {has}, but a tokenizer file has 'model' or 'exgate'")
    try:
        tokenizer = _library("this tokenizer").Tokenizer.from_file(str(file))
    except ImportError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        raise ValueError(f"tokens: '{file}' is no tokenizer that the package 'tokenizers' can read: {error}") from None
    return BPETokenizer(tokenizer)


def check(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuses a tokenizer that cannot be the one of a model with this vocabulary (padding up by an eighth is usual).

    Raises:
        ValueError: the tokenizer has more tokens than the model, or so many fewer that it belongs to another.
    """
    have = tokenizer.vocab_size
    if not have <= vocab_size <= have + max(127, have // 8):
        raise ValueError(
            f"tokens: wrong tokenizer: it has {have} tokens, but the model's vocabulary has {vocab_size}; "
            "use the tokenizer that the model was trained with"
        )


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of several texts; BPE takes them on all cores at once."""
    if isinstance(tokenizer, BPETokenizer):
        return [e.ids for e in tokenizer._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    return [tokenizer.encode(text) for text in texts]


def _library(purpose: str) -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError(
            f"exgate: {purpose} needs the package 'tokenizers'. Install the extra: pip install 'exgate[text]'"
        ) from error
    return tokenizers


def _byte_of_letter() -> dict[str, int]:
    """The byte behind each letter of byte-level BPE files: printable Latin-1 is itself, the rest U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}
