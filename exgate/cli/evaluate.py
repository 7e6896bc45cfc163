"""Score a model on text (loss, perplexity, bits per byte), or run a suite that compares models on a task.

examples:
  exgate evaluate runs/small
  exgate evaluate runs/small --data books/ 'notes/*.txt' --window 512 --json scores.json
  exgate evaluate runs/small --data book.txt --stateful --documents
  exgate evaluate runs/small --weights int8
  exgate evaluate formal --problems parity --models lstm,xlstm[0:1]
  exgate evaluate gradient

A suite trains small models of equal size on a task, each with the best of the same learning rates, scores them, and
writes a table, results.json and a picture; stopped, it goes on where it was. `exgate evaluate SUITE --help` has its
options. (A run whose folder is called like a suite is ./NAME.) The suites:
  adding          two marked numbers, added after 100 to 500 steps (1997)
  copy            ten symbols kept over a long time
  extrapolate     language models beyond the length that they were trained with: runs and a text
  forecast        long horizons of time series, on files of the literature
  formal          fifteen formal languages, trained on length 40 and scored to 256
  gradient        how fast the gradient vanishes: RNN, LSTM, sLSTM, mLSTM, attention at initialisation
  language        the next byte of a text: peers, and the steps from LSTM to xLSTM; speed, memory, size of the state
  lra             Long Range Arena: ListOps, and of --data reviews, pairs of papers, images, Pathfinder
  m4              series of the M4 competition, with intervals
  multiplication  two marked numbers, multiplied (1997)
  nearest         nearest neighbour search: revising what was stored
  rare            the next word of a text, by how often it was seen in training
  recall          associative recall: many keys (MQAR), and one key at growing distance
  temporal-order  which of two or three symbols came first (1997)
  timing          spikes at exact times, with and without peepholes (2002)

A source is a file, a folder, a glob, - for standard input, hf:NAME, or python-manual; without --data it is the text
that the run set aside for validation, scored as the run did. Each document is scored alone, in windows that do not
overlap; the last one is filled up with earlier tokens, of which only the new ones count. With --stateful the state is
carried from a document's first token to its last instead, as only recurrent models can.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, arg

from exgate.cli import OWN, suite, suites, train
from exgate.cli import recipe as recipes
from exgate.cli.model import Opened, enough_memory, open_model
from exgate.cli.recipe import Recipe
from exgate.data import text
from exgate.evaluate import cache, perplexity
from exgate.generate.text import first_token
from exgate.models.compact import compact


@dataclass(frozen=True, kw_only=True)
class Arguments:
    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a model folder, or a file of weights."""
    data: Annotated[tuple[str, ...], arg(metavar="SOURCE ...")] = ()
    """The sources of text; the run's own validation text if there are none."""
    window: Annotated[int | None, arg(metavar="N")] = None
    """The most tokens that a prediction can look back on (with --stateful it only bounds the memory); the window that
    the run was trained with, or else 2048."""
    stateful: bool = False
    """Carry the state through each document instead; without --data and --window as the run itself was validated."""
    batch: int = 8
    """Windows that are computed together: it changes the speed, and nothing else."""
    documents: bool = False
    """Show a line for each document, too."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the numbers to this file."""
    tokenizer: Annotated[str | None, arg(metavar="PATH")] = None
    """The tokenizer's file or folder, where it is not beside the model."""
    device: Annotated[str | None, arg(metavar="NAME")] = None
    """cpu, cuda, ...; a GPU if there is one."""
    dtype: Annotated[str | None, arg(metavar="NAME")] = None
    """float32, bfloat16, ...; that of the file if it is not given."""
    weights: Literal["bf16", "int8"] | None = None
    """Score the model with its large matrices in fewer bits too, and say what they cost in bits per byte."""


class Scored(NamedTuple):
    """A document: where it is from, its name and sizes, and its summed loss in nats."""

    source: str
    name: str
    tokens: int
    bytes: int
    words: int
    nats: float


def main(argv: list[str]) -> int:
    """Runs `exgate evaluate` and returns its exit status."""
    if argv and argv[0] in OWN:
        return import_module(f"exgate.cli.{OWN[argv[0]]}").evaluate(argv[1:])
    if argv and argv[0] in suites():
        return suite.evaluate(argv)
    arguments = tyro.cli(
        Arguments, prog="exgate evaluate", description=__doc__, args=argv, config=(FlagCreatePairsOff,)
    )
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise ValueError(f"exgate: there is no folder '{arguments.json.parent}' for the numbers. Make it first.")
    opened = open_model(arguments.run, tokenizer=arguments.tokenizer, device=arguments.device, dtype=arguments.dtype)
    recipe = _recipe(arguments.run)
    if recipe and arguments.window is None and not arguments.data:
        arguments = replace(arguments, stateful=arguments.stateful or recipe.data.stateful)
    if arguments.window is None:
        arguments = replace(arguments, window=recipe.data.window if recipe else 2048)
    documents = list(_documents(arguments, recipe))
    before = None
    with enough_memory("Take a smaller --batch, a smaller --window, or --dtype bfloat16."):
        if arguments.weights is not None:
            before = _measure(_score(arguments, opened, documents))
            opened = opened._replace(model=compact(opened.model, arguments.weights))
        scored = _score(arguments, opened, documents)
    total = _measure(scored)
    names = dict.fromkeys(row.source for row in scored)
    sources = {name: _measure(row for row in scored if row.source == name) for name in names}
    Console(soft_wrap=True).print(_table(arguments, opened, total, sources, scored))
    if before is not None:
        cost = total["bits_per_byte"] - before["bits_per_byte"]
        print(f"{arguments.weights} weights cost {cost:+.4f} bits/byte: {before['bits_per_byte']:.4f} without them")
    if arguments.json is not None:
        cache.write(arguments.json, _numbers(arguments, opened, total, sources, scored) | _compared(arguments, before))
    return 0


def _recipe(run: str) -> Recipe | None:
    """The recipe of the run that a folder is, or is in; None for a model that comes from elsewhere."""
    folder = Path(run).absolute()
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / recipes.FILE).is_file():
            return recipes.read(str(place))
    return None


def _documents(arguments: Arguments, recipe: Recipe | None) -> Iterator[tuple[str, str, str]]:
    """Source, name and text of each document."""
    for source in dict.fromkeys(arguments.data):
        for name, words in text.documents(source):
            yield source, name, words
    if arguments.data:
        return
    if recipe is None:
        raise ValueError(f"exgate: '{arguments.run}' is not a run with validation text of its own. Give --data SOURCE.")
    _, held_out = train.documents(recipe, lambda line: None)
    if held_out is None:
        raise ValueError(f"exgate: the run '{arguments.run}' set no validation text aside. Give --data SOURCE.")
    found = list(held_out())
    if not train.was_held_out(recipe, found):
        sources = ", ".join(recipe.data.validation or recipe.data.sources)
        raise ValueError(
            f"exgate: the text of the run '{arguments.run}' ({sources}) has changed since it was trained: what is set "
            "aside for validation now is not what was then, and may have been trained on. Put the text back, or give "
            "--data SOURCE to score another."
        )
    for name, words in found:
        yield "validation text of the run", name, words


def _score(arguments: Arguments, opened: Opened, documents: list[tuple[str, str, str]]) -> list[Scored]:
    """Tokenize and score all documents, with a progress bar where somebody looks."""
    assert arguments.window is not None
    console = Console(stderr=True)
    found, ids = [], []
    for source, name, words in documents:
        # Four bytes a token, where a list would take up to forty.
        ids.append(array("I", opened.tokenizer.encode(words)))
        size = len(words.encode("utf-8", errors="surrogatepass"))
        found.append((source, name, len(ids[-1]), size, len(words.split())))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{sum(map(len, ids)):,} tokens", total=sum(map(len, ids)))
        nats = perplexity.losses(
            opened.model,
            ids,
            window=arguments.window,
            end=first_token(opened.model, opened.tokenizer),
            stateful=arguments.stateful,
            batch=arguments.batch,
            on_progress=lambda count: progress.advance(task, count),
        )
    return [Scored(*row, nats=value) for row, value in zip(found, nats, strict=True)]


def _measure(rows: Iterable[Scored]) -> dict[str, float]:
    rows = list(rows)
    return perplexity.summary(*([getattr(row, name) for row in rows] for name in ("nats", "tokens", "bytes", "words")))


def _table(
    arguments: Arguments,
    opened: Opened,
    total: dict[str, float],
    sources: dict[str, dict[str, float]],
    scored: list[Scored],
) -> Table:
    rule = "state carried through" if arguments.stateful else f"windows of {arguments.window}"
    rule += f", {arguments.weights} weights" if arguments.weights else ""
    table = Table(title=f"{opened.folder}, {rule}", caption="loss in nats per token; ppl = perplexity")
    table.add_column("text", overflow="fold")
    for name in ("docs", "tokens", "loss", "ppl/token", "ppl/word", "bits/byte"):
        table.add_column(name, justify="right", no_wrap=True)

    def line(name: str, measures: dict[str, float], style: str | None = None) -> None:
        counts = [f"{measures[key]:,.0f}" for key in ("documents", "tokens")]
        loss, bits = (f"{measures[key]:.4f}" for key in ("loss", "bits_per_byte"))
        token, word = (f"{measures[key]:,.5g}" for key in ("perplexity", "word_perplexity"))
        table.add_row(name, *counts, loss, token, word, bits, style=style)

    for source, measures in sources.items():
        rows = [row for row in scored if row.source == source and row.tokens]
        if arguments.documents and len(rows) > 1:
            for row in rows:
                line(row.name, _measure([row]), "dim")
        if len(sources) > 1:
            line(source, measures)
        table.add_section()
    line(next(iter(sources)) if len(sources) == 1 else "all", total, "bold")
    return table


def _numbers(
    arguments: Arguments,
    opened: Opened,
    total: dict[str, float],
    sources: dict[str, dict[str, float]],
    scored: list[Scored],
) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "run": arguments.run,
        "model": str(opened.folder),
        "window": None if arguments.stateful else arguments.window,
        "stateful": arguments.stateful,
        "total": total,
        "sources": sources,
    }
    if arguments.documents:
        numbers["documents"] = [
            {"source": row.source, "name": row.name} | _measure([row]) for row in scored if row.tokens
        ]
    return numbers


def _compared(arguments: Arguments, before: dict[str, float] | None) -> dict[str, Any]:
    return {} if before is None else {"weights": arguments.weights, "total_without": before}
