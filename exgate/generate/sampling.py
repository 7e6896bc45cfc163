"""Text from a model, token by token: prompts of any lengths in one batch, each row as if it were alone."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from exgate.generate.logits import Sampler
from exgate.generate.prefill import prefill, split
from exgate.generate.replay import Stepper
from exgate.generate.session import Session
from exgate.generate.stop import StopFilter
from exgate.ops.state import State, join, map_state, select

Prompts = Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Generation:
    """What `generate` wrote.

    Args:
        tokens: the new tokens of each row, LongTensors on the CPU, without the end token and without stop sequences.
        finished: why each row ended: "end" (the end token), "stop", or "length" (max_tokens).
        session: where each row stands; `generate(model, session=...)` goes on from it.
    """

    tokens: list[Tensor]
    finished: list[str]
    session: Session

    @property
    def state(self) -> State:
        """The model's state after everything that each row has read and written (end and stop tokens too)."""
        return self.session.state


@dataclass
class _Row:
    number: int
    random: torch.Generator
    stops: StopFilter
    tokens: list[int] = field(default_factory=list)
    finished: str = ""


def generate(
    model: Any,
    prompts: Prompts | None = None,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[Sequence[int]] | Callable[[int, int], bool] = (),
    end: int | None = None,
    seed: int | Sequence[int] | None = None,
    state: State = None,
    session: Session | None = None,
    on_token: Callable[[int, int], None] | None = None,
    vocab_size: int | None = None,
    chunk: int = 512,
) -> Generation:
    """Continue each prompt by up to `max_tokens` tokens.

    Each row's result is the one it would have alone: rows are never padded, and each has its own random numbers. (Up
    to the rounding of batched products, which shows only where two tokens have practically the same probability.) A
    prompt may have any length, whatever the memory: it is fed in chunks, and a recurrent model's state does not grow.

    Args:
        model: a language model: (tokens (B, T), state) -> (logits (B, T, V), state), and the same without its head as
            `model.hidden`. It runs in eval mode, and is put back after.
        prompts: (B, T) or a list of token ids per row. An empty row starts from the token `end`, as a document does;
            after a `session`, it (and None for all) adds nothing.
        max_tokens: 0 only reads the prompts.
        temperature, top_k, top_p, min_p, repetition_penalty, vocab_size: see `exgate.generate.logits.Sampler`.
        stop: token sequences that end a row, and are not part of its tokens; or a function (row, token) -> bool, called
            after each token, that ends the row when it is true (the token then stays).
        end: the token that ends a document, and a row; it is not part of its tokens. None: there is none.
        seed: row r draws from the seed `seed + r`, or from its own seed of a list: with it, that row alone gives the
            same tokens. None goes on with the session's numbers, or takes a seed from torch's global generator.
        state: a model's state that comes before the prompts. Never modified.
        session: where an earlier call stopped: its state, its random numbers, and what it would have said next.
        on_token: called as (row, token) with each new token, once no stop sequence can take it back.
        chunk: how many tokens of a prompt are fed at a time: it bounds the memory and changes nothing else.
    Raises:
        ValueError: an option is out of its range, there is nothing to continue, or a token is not in the vocabulary.
    """
    sampler = Sampler(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        vocab_size=vocab_size,
    )
    if max_tokens < 0 or chunk < 1:
        raise ValueError(f"generate: max_tokens is {max_tokens} and chunk {chunk}; they must be at least 0 and 1.")
    if session is not None and state is not None:
        raise ValueError("generate: a session holds a state already; give one of the two.")
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            start = _start(model, _prompts(model, prompts, session, state, end), session, state, chunk)
            rows = _rows(start, session is not None, seed, [] if callable(stop) else stop)
            ends = _Ends(end, stop if callable(stop) else None, on_token)
            finish = _decode(model, start, rows, sampler, ends, max_tokens)
    finally:
        model.train(training)
    # Tensors made in inference mode cannot take part in training: copies can.
    finish = finish.map(torch.clone)
    return Generation([torch.tensor(row.tokens, dtype=torch.long) for row in rows], [r.finished for r in rows], finish)


def _prompts(
    model: Any, prompts: Prompts | None, session: Session | None, state: State, end: int | None
) -> list[Tensor]:
    """The prompts as one LongTensor a row on the model's device, none of them empty unless a session goes on."""
    if prompts is None:
        if session is None:
            raise ValueError("generate: there are neither prompts nor a session to continue.")
        prompts = [[]] * session.rows
    device = next(model.parameters()).device
    rows = [torch.as_tensor(row, dtype=torch.long).to(device) for row in prompts]
    if not rows or any(row.dim() != 1 for row in rows):
        raise ValueError(
            "generate: prompts must be (B, T) token ids, or a list of one (T,) per row, with at least one row."
        )
    if session is not None and session.rows != len(rows):
        raise ValueError(f"generate: {len(rows)} prompts for a session of {session.rows} rows. See Session.select.")
    if session is None and any(len(row) == 0 for row in rows):
        if end is None or state is not None:
            raise ValueError(
                "generate: a prompt is empty (T=0), so there is nothing to continue. Start with the token that ends "
                "documents (end=...), or continue a session."
            )
        rows = [row if len(row) else torch.tensor([end], device=device) for row in rows]
    size = model.embed.weight.shape[0]
    for number, row in enumerate(rows):
        if len(row) and not 0 <= int(row.min()) <= int(row.max()) < size:
            odd = next(token for token in row.tolist() if not 0 <= token < size)
            raise ValueError(
                f"generate: prompt {number} holds the token {odd}, but this model knows the tokens 0 to {size - 1}. "
                "Use the tokenizer that it was trained with."
            )
    return rows


def _start(model: Any, prompts: list[Tensor], session: Session | None, state: State, chunk: int) -> Session:
    """Where generation begins: after `session` or `state`, and after the prompts."""
    if session is not None:
        device = next(model.parameters()).device
        session = session.map(lambda tensor: tensor.to(device))
        before, logits = split(session.state, session.rows), list(session.logits)
        seen, fed, last = session.seen.clone(), session.fed.clone(), session.last.clone()
        new = [number for number, prompt in enumerate(prompts) if len(prompt)]
    else:
        before = [None] * len(prompts) if state is None else split(state, len(prompts))
        logits, seen = [torch.empty(0)] * len(prompts), None
        fed, last = torch.zeros(2, len(prompts), dtype=torch.long, device=prompts[0].device)
        new = list(range(len(prompts)))
    if new:
        fresh, after = _prefill_once(model, [prompts[row] for row in new], [before[row] for row in new], chunk)
        for row, scores, part in zip(new, fresh, after, strict=True):
            logits[row], before[row] = scores, part
    together = torch.stack(logits)
    if seen is None:
        seen = torch.zeros_like(together, dtype=torch.bool)
    for row in new:
        seen[row, prompts[row]] = True
        fed[row] += len(prompts[row])
        last[row] = prompts[row][-1]
    count = len(prompts)
    if session is None:
        random, held = torch.empty(count, 0, dtype=torch.uint8), [[] for _ in prompts]
    else:
        # A stop sequence cannot begin before a prompt and end after it.
        random, held = session.random, [[] if row in new else tail for row, tail in enumerate(session.held)]
    return Session(join(before), together, seen, fed, last, random, held, [b""] * count)


def _prefill_once(
    model: Any, prompts: list[Tensor], states: list[State], chunk: int
) -> tuple[list[Tensor], list[State]]:
    """`prefill`, where several samples from one prompt read it only once."""
    if any(state is not None for state in states):
        logits, states = prefill(model, prompts, states, chunk=chunk)
        return list(logits), states
    keys = [tuple(prompt.tolist()) for prompt in prompts]
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    different = [prompts[keys.index(key)] for key in place]
    logits, states = prefill(model, different, [None] * len(different), chunk=chunk)
    return [logits[place[key]] for key in keys], [states[place[key]] for key in keys]


def _rows(start: Session, goes_on: bool, seed: Any, stops: Iterable[Sequence[int]]) -> list[_Row]:
    """What the host keeps of each row: its random generator, its stop filter, its tokens."""
    count = start.rows
    if seed is None and not goes_on:
        seed = int(torch.randint(2**62, ()))
    seeds = [seed + row for row in range(count)] if isinstance(seed, int) else seed
    if seeds is not None and len(seeds) != count:
        raise ValueError(f"generate: {len(seeds)} seeds for {count} rows. Give one per row, or a single number.")
    stops, rows = list(stops), []
    for number in range(count):
        random = torch.Generator()
        if seeds is not None:
            random.manual_seed(seeds[number])
        else:
            random.set_state(start.random[number].clone())  # a view into a table of states is refused
        held = start.held[number]
        rows.append(_Row(number, random, StopFilter(stops, held=held, shown=len(held))))
    return rows


@dataclass(frozen=True)
class _Ends:
    """When a row is done, and who is told of its tokens."""

    end: int | None
    stop: Callable[[int, int], bool] | None
    on_token: Callable[[int, int], None] | None

    def __call__(self, row: _Row, token: int) -> None:
        """Take in a row's next token; sets `row.finished` if it is the last."""
        if token == self.end:
            self._give(row, row.stops.close())
            row.finished = "end"
            return
        self._give(row, row.stops.feed(token))
        if row.stops.hit or (self.stop is not None and self.stop(row.number, token)):
            row.finished = "stop"

    def close(self, row: _Row) -> None:
        """The row ends here, without an end or stop token."""
        self._give(row, row.stops.close())
        row.finished = "length"

    def _give(self, row: _Row, tokens: list[int]) -> None:
        for token in tokens:
            row.tokens.append(token)
            if self.on_token is not None:
                self.on_token(row.number, token)


def _decode(model: Any, start: Session, rows: list[_Row], sampler: Sampler, ends: _Ends, max_tokens: int) -> Session:
    """Write tokens until every row is done; the session after. A row leaves the batch once its last token is fed."""
    # Of the rows in the batch: the model's state, its logits, the tokens seen, how many, and the last one.
    parts = (start.state, start.logits, start.seen, start.fed, start.last)
    done: dict[int, State] = {}
    active, next_step = list(rows), Stepper(model)
    for step in range(max_tokens):
        state, logits, seen, fed, _ = parts
        token = sampler(logits, seen, None if sampler.greedy else _uniform(active, logits.device))
        for row, value in zip(active, token.tolist(), strict=True):
            ends(row, value)
            if not row.finished and step == max_tokens - 1:
                ends.close(row)
        logits, state = next_step(token, state)
        parts = (state, logits, seen.scatter(1, token[:, None], True), fed + 1, token)
        left = [place for place, row in enumerate(active) if not row.finished]
        if len(left) == len(active):
            continue
        for place, row in enumerate(active):
            if row.finished:
                done[row.number] = map_state(lambda tensor, place=place: tensor[place : place + 1].clone(), parts)
        if not left:
            break
        parts, active = select(parts, torch.tensor(left, device=logits.device)), [active[place] for place in left]
    if done:
        parts = join([done[row.number] for row in rows])
    for row in rows:
        row.finished = row.finished or "length"
    random = torch.stack([row.random.get_state() for row in rows])
    # After an end or a stop there is no beginning of a stop sequence left over.
    held = [row.stops.held if row.finished == "length" else [] for row in rows]
    state, logits, seen, fed, last = parts
    return Session(state, logits, seen, fed, last, random, held, [b""] * len(rows))


def _uniform(rows: Sequence[_Row], device: torch.device) -> Tensor:
    """One number in [0, 1) for each row, from its own generator: on the CPU, so that all devices draw the same."""
    return torch.cat([torch.rand(1, generator=row.random, dtype=torch.float64) for row in rows]).to(device)
