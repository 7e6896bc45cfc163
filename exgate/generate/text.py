"""Generation of text: stop strings, and characters that are shown as soon as they are whole."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exgate.generate.sampling import Generation, generate
from exgate.generate.session import Session
from exgate.generate.stop import StopFilter


class TextStream:
    """Tokens in, text out, as soon as it is certain: whole characters that cannot be part of a stop string any more.

    Args:
        tokenizer: with `decode_bytes(ids) -> bytes`.
        stop: strings that end the text and are not part of it.
        held: `held` of an earlier stream, which this one continues.
        previous: the token before the first, if any: some tokenizers write a space only between two tokens.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str] = (), *, held: bytes = b"", previous: int | None = None
    ) -> None:
        self._tokenizer, self._previous = tokenizer, previous
        self._filter = StopFilter([text.encode() for text in stop])
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # Bytes that are held back cannot be shown yet: feeding them again only puts them back in their place.
        self._waiting = self._take(held)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._filter.hit

    @property
    def held(self) -> bytes:
        """The bytes that were not shown: half a character, or the beginning of a stop string."""
        return self._waiting.encode() + self._decoder.getstate()[0] + bytes(self._filter.held)

    def feed(self, token: int) -> str:
        """The text that `token` makes certain; often one piece, sometimes none."""
        before = [] if self._previous is None else [self._previous]
        data = self._tokenizer.decode_bytes([*before, token])[len(self._tokenizer.decode_bytes(before)) :]
        self._previous = token
        text, self._waiting = self._waiting, ""
        return text + self._take(data)

    def close(self) -> str:
        """The rest, when nothing more comes; what is no whole character becomes U+FFFD."""
        text, self._waiting = self._waiting, ""
        return text + self._decoder.decode(bytes(self._filter.close()), final=True)

    def _take(self, data: bytes) -> str:
        return self._decoder.decode(bytes(byte for item in data for byte in self._filter.feed(item)))


@dataclass(frozen=True)
class Writing:
    """What `write` wrote: the texts, the tokens behind them, and the session (its `text` is what was held back)."""

    texts: list[str]
    generation: Generation
    session: Session


def first_token(model: Any, tokenizer: Any) -> int:
    """What a document begins with: a token that the model came with, else the one that ends documents."""
    own = getattr(model, "special_tokens", {}).get("bos_token_id")
    return own if isinstance(own, int) else tokenizer.end


def complete(model: Any, tokenizer: Any, prompt: str, **options: Any) -> str:
    """The text that a model puts after `prompt`: `write` for a single one."""
    return write(model, tokenizer, [prompt], **options).texts[0]


def write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str] | None = None,
    *,
    max_tokens: int,
    stop: Sequence[str] = (),
    on_text: Callable[[int, str], None] | None = None,
    session: Session | None = None,
    hold: bool = False,
    **options: Any,
) -> Writing:
    """Continue texts by up to `max_tokens` tokens each.

    A prompt is the beginning of a document: the token that ends documents is fed before it, as in training, or the
    one with which `model.special_tokens` says that they begin. So an empty prompt begins a new document. After a
    `session`, prompts are what comes next, and may be empty.

    Args:
        tokenizer: with `encode`, `decode_bytes`, `end` and `vocab_size`.
        prompts: one text per row; None after a session adds nothing.
        stop: strings that end a row, wherever they fall between tokens; they are not part of its text.
        on_text: called as (row, text) with each piece of text as soon as it is certain.
        session: where an earlier call stopped.
        hold: keep half characters, and what may begin a stop string, for the session's next call, instead of writing
            them at the end. The texts of both calls together are then the text of one call.
        options: of `exgate.generate.sampling.generate`.
    Raises:
        ValueError: the tokenizer has tokens that the model does not know; and as `generate`.
    """
    size = model.embed.weight.shape[0]
    if tokenizer.vocab_size > size:
        raise ValueError(
            f"generate: the tokenizer has {tokenizer.vocab_size} tokens, but this model knows {size}. "
            "Use the tokenizer that it was trained with."
        )
    if prompts is None:
        if session is None:
            raise ValueError("generate: there are neither prompts nor a session to continue.")
        prompts = [""] * session.rows
    first = [] if session is not None else [first_token(model, tokenizer)]
    tokens = [[*first, *tokenizer.encode(prompt)] for prompt in prompts]
    texts, streams = [""] * len(prompts), []
    for row, ids in enumerate(tokens):
        # A new prompt begins new text: what was held back before it is finished with.
        old = session.text[row] if session is not None and not prompts[row] and row < session.rows else b""
        last = ids[-1] if ids else int(session.last[row]) if session is not None and row < session.rows else None
        streams.append(TextStream(tokenizer, stop, held=old, previous=last))

    def show(row: int, text: str) -> None:
        if text:
            texts[row] += text
            if on_text is not None:
                on_text(row, text)

    def read(row: int, token: int) -> bool:
        show(row, streams[row].feed(token))
        return streams[row].stopped

    options = {"end": tokenizer.end, "vocab_size": tokenizer.vocab_size, **options}
    generation = generate(model, tokens, max_tokens=max_tokens, stop=read, session=session, **options)
    held = [b""] * len(prompts)
    for row, reason in enumerate(generation.finished):
        if hold and reason == "length":
            held[row] = streams[row].held
        elif reason != "stop":
            show(row, streams[row].close())
    return Writing(texts, generation, replace(generation.session, text=held))
