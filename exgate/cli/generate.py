r"""Continue a text with a model, as it comes.

examples:
  exgate generate runs/small "The import statement"
  exgate generate runs/small "def " --temperature 0 --max-tokens 100 --stop $'\n\n'
  exgate generate runs/small "Once" --count 3 --seed 7 --top-p 0.9
  exgate generate runs/small "Once" --weights int8
  exgate generate runs/small "Once" --state here.safetensors
  exgate generate runs/small --from-state here.safetensors

The text goes to standard output, all else to standard error. A prompt begins a document, and may have any length: it
is read piece by piece, in memory that does not grow. Without a prompt the model begins a document of its own. Text
continued --from-state is the text that would have come without the break.
"""

import secrets
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from exgate.cli.model import Opened, enough_memory, open_model
from exgate.generate import session as sessions
from exgate.generate.session import Session
from exgate.generate.text import Writing, write


@dataclass(frozen=True, kw_only=True)
class Arguments:
    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a model folder, or a file of weights."""
    prompt: Annotated[Positional[str], arg(metavar="PROMPT")] = ""
    """What the text begins with."""
    prompt_file: Annotated[str | None, arg(metavar="FILE")] = None
    """A file that the prompt is in instead, - for standard input."""
    max_tokens: int = 256
    """The most tokens to write."""
    temperature: float = 0.8
    """0 takes the most probable token each time; 1 draws from the model's distribution as it is."""
    top_k: Annotated[int | None, arg(metavar="K")] = None
    """Draw from the k best tokens only."""
    top_p: Annotated[float | None, arg(metavar="P")] = None
    """Draw from the fewest best tokens that have this probability together."""
    min_p: Annotated[float | None, arg(metavar="P")] = None
    """Draw from the tokens with at least this share of the best one's probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that are already there become less likely."""
    stop: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="TEXT")] = ()
    """End before this string; may be given several times."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """The same seed gives the same text; sample r uses seed + r. Drawn anew, and printed, if it is not given."""
    count: int = 1
    """How many texts to write."""
    state: Annotated[Path | None, arg(metavar="FILE")] = None
    """Save to this .safetensors file where the text stands at its end."""
    from_state: Annotated[Path | None, arg(metavar="FILE")] = None
    """Go on from such a file; a prompt is then what comes next."""
    tokenizer: Annotated[str | None, arg(metavar="PATH")] = None
    """The tokenizer's file or folder, where it is not beside the model."""
    device: Annotated[str | None, arg(metavar="NAME")] = None
    """cpu, cuda, ...; a GPU if there is one."""
    dtype: Annotated[str | None, arg(metavar="NAME")] = None
    """float32, bfloat16, ...; that of the file if it is not given."""
    weights: Literal["bf16", "int8"] | None = None
    """Store the large matrices in fewer bits, which on a CPU makes the model faster and smaller: `exgate evaluate
    --weights` says what it costs."""


def main(argv: list[str]) -> int:
    """Runs `exgate generate` and returns its exit status."""
    arguments = tyro.cli(Arguments, prog="exgate generate", description=__doc__, args=argv)
    if arguments.count < 1:
        raise ValueError(f"exgate: --count is {arguments.count}, but should be 1 or more.")
    if arguments.state is not None and not arguments.state.absolute().parent.is_dir():
        raise ValueError(f"exgate: there is no folder '{arguments.state.parent}' to save the state in. Make it first.")
    prompt = _prompt(arguments)
    opened = open_model(
        arguments.run,
        tokenizer=arguments.tokenizer,
        device=arguments.device,
        dtype=arguments.dtype,
        weights=arguments.weights,
    )
    session = None
    if arguments.from_state is not None:
        session = sessions.load(arguments.from_state, opened.model, tokenizer=opened.tokenizer.fingerprint)
    arguments, session = _samples(arguments, session)
    with enough_memory("Take a smaller --count, or --dtype bfloat16."):
        writing = _write(arguments, opened, prompt, session)
    if arguments.state is not None:
        sessions.save(arguments.state, writing.session, opened.model, tokenizer=opened.tokenizer.fingerprint)
        _note(f"state of {int(writing.session.fed.sum())} tokens in {arguments.state}: --from-state goes on from it")
    return 0


def _prompt(arguments: Arguments) -> str:
    if arguments.prompt_file is None:
        return arguments.prompt
    if arguments.prompt:
        raise ValueError("exgate: there is a prompt and a --prompt-file. Give one of them.")
    try:
        if arguments.prompt_file == "-":
            return sys.stdin.read()
        return Path(arguments.prompt_file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"exgate: the prompt in {arguments.prompt_file} is not UTF-8 text ({error}).") from error


def _samples(arguments: Arguments, session: Session | None) -> tuple[Arguments, Session | None]:
    """Settle the number of texts and the seed: a state may hold several texts, or one is continued in several ways."""
    if session is not None and session.rows > 1:
        if arguments.count not in (1, session.rows):
            raise ValueError(
                f"exgate: the state holds {session.rows} texts, which cannot become {arguments.count}. "
                "Leave --count out."
            )
        arguments = replace(arguments, count=session.rows)
    elif session is not None and arguments.count > 1:
        session = session.select([0] * arguments.count)
        # With the random numbers of the file all of them would write the same.
        arguments = replace(arguments, seed=arguments.seed if arguments.seed is not None else secrets.randbits(31))
    if session is None and arguments.seed is None:
        arguments = replace(arguments, seed=secrets.randbits(31))
    return arguments, session


def _write(arguments: Arguments, opened: Opened, prompt: str, session: Session | None) -> Writing:
    """Write the texts, a single one as it comes, several one after the other, and say how fast."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    if prompt and sys.stdout.isatty():
        Console(highlight=False, soft_wrap=True).print(prompt, style="dim", markup=False, end="")
    times: list[float] = []

    def show(row: int, text: str) -> None:
        if arguments.count == 1:
            sys.stdout.write(text)
            sys.stdout.flush()

    names = ("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    begin = time.perf_counter()
    writing = write(
        opened.model,
        opened.tokenizer,
        [prompt] * arguments.count,
        session=session,
        on_text=show,
        on_token=lambda row, token: times.append(time.perf_counter()),
        hold=arguments.state is not None,
        **options,
    )
    seconds = time.perf_counter() - begin
    if arguments.count == 1:
        # A text that is to be continued must not get a line end that the model did not write.
        print("", end="\n" if arguments.state is None or sys.stdout.isatty() else "", flush=True)
    else:
        for row, text in enumerate(writing.texts):
            seed = "" if arguments.seed is None else f", seed {arguments.seed + row}"
            print(f"--- {row + 1} of {arguments.count}{seed} ---\n{prompt}{text}", flush=True)
    first = times[0] - begin if times else seconds
    rate = f", {(len(times) - 1) / (times[-1] - times[0]):,.0f} tokens/s" if len(times) > 1 else ""
    seed = "" if arguments.seed is None or not arguments.temperature else f", seed {arguments.seed}"
    _note(f"{len(times)} tokens in {seconds:.2f} s (the first after {first:.2f} s){rate}{seed}")
    return writing


def _note(words: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"exgate: {words}", style="dim", markup=False)
