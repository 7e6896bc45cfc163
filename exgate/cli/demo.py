"""Train an xLSTM and an LSTM of the same size on the Python manual, and compare them.

usage: exgate demo [--folder FOLDER] [--steps STEPS]

Both read the same tokens: the language reference that CPython carries, by bytes. Then come a table of their size, speed
and bits per byte on topics that were held out, beside what gzip, bzip2 and xz need for these topics after the training
text; both loss curves in one picture; and a passage that the xLSTM writes. About three minutes on two CPU cores. A demo
that was stopped goes on where it was; one that is finished is shown again without training.

examples:
  exgate demo
  exgate demo --folder /tmp/demo --steps 100
"""

import bz2
import gzip
import lzma
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from exgate import figure
from exgate.cli import machine, train
from exgate.cli import recipe as recipes
from exgate.cli.model import open_model
from exgate.cli.recipe import Recipe
from exgate.generate.text import complete
from exgate.train import log, plot

# Name in the table, and the recipe.
MODELS = {"xLSTM[1:1]": "demo-xlstm", "LSTM": "demo-lstm"}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip -9": lambda data: gzip.compress(data, 9),
    "bzip2 -9": lambda data: bz2.compress(data, 9),
    "xz -9": lambda data: lzma.compress(data, preset=9),
}
PROMPT = "The import statement"
PASSAGE = 500
# Matrices of this size are slower, not faster, on more threads.
THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Arguments:
    folder: Path = Path("runs")
    """Where the folders of the two runs and the picture go."""
    steps: int | None = None
    """Steps of each run, in place of those of the recipes: fewer for a look, more for a better model."""


class Trained(NamedTuple):
    """One row of the table; speed in tokens/s (the median over the run), and bits per byte of the held-out text."""

    name: str
    folder: Path
    parameters: int
    tokens: int
    speed: float
    bits: float


def main(argv: list[str]) -> int:
    """Runs `exgate demo` and returns its exit status."""
    arguments = tyro.cli(Arguments, prog="exgate demo", description=__doc__, args=argv)
    if arguments.steps is not None and arguments.steps < 1:
        raise ValueError(f"demo: --steps is {arguments.steps}; it should be at least 1.")
    console = Console(highlight=False)
    trained = []
    with machine.threads(THREADS):
        for name, source in MODELS.items():
            recipe = _recipe(source, arguments)
            console.print(f"\n[bold]{name}[/bold], exactly as [cyan]exgate train {source}[/cyan] does")
            result = train.run(recipe, remedy="give the same --steps as before, or another --folder")
            if result.stopped_by:
                again = shlex.join(["demo", *argv])
                print(f"Stopped by {result.stopped_by}; everything is saved. Go on with: {train.program()} {again}")
                return train.stopped(result)
            trained.append(_trained(name, recipe, result.validation["validation_bits_per_byte"]))
        console.print()
        bits = compressed(_recipe(MODELS["LSTM"], arguments))
        console.print(_table(trained, bits))
        print(verdict(trained, bits))
        picture = _picture(trained, arguments.folder)
        opened = open_model(str(trained[0].folder), device="cpu")
        passage = complete(opened.model, opened.tokenizer, PROMPT, max_tokens=PASSAGE, temperature=0.7, seed=0)
    console.print(
        f"\n[bold]What the {trained[0].name} writes[/bold] after [cyan]{PROMPT!r}[/cyan], at temperature 0.7:\n"
    )
    console.print(PROMPT + passage, markup=False)
    print(f"\n{picture}" + "".join(f"{row.name + ':':<12}{row.folder}\n" for row in trained) + _next(trained[0]))
    return 0


def compressed(recipe: Recipe) -> dict[str, float]:
    """Bits per byte that compressors need for the held-out text of a recipe after its training text.

    That is 8 (|C(training + held out)| - |C(training)|) / |held out|: a compressor has seen what the models have seen,
    as far as its window reaches (gzip: 32 kB, bzip2: 900 kB, xz: 64 MB).
    """
    training, held_out = train.documents(recipe, say=lambda _: None)
    if held_out is None:
        raise ValueError("demo: the recipe holds no text out; set data.validation_fraction")
    before, after = ("".join(text for _, text in docs()).encode() for docs in (training, held_out))
    return {
        name: 8 * (len(compress(before + after)) - len(compress(before))) / len(after)
        for name, compress in COMPRESSORS.items()
    }


def verdict(trained: list[Trained], bits: dict[str, float]) -> str:
    """Who was better, in one sentence, whatever came out."""
    first, second = trained
    lower, higher = sorted(trained, key=lambda row: row.bits)
    beaten = [name for name, value in bits.items() if lower.bits < value]
    words = f" That is below {' and '.join(beaten)}." if beaten else " The compressors are all below that."
    if f"{first.bits:.3f}" == f"{second.bits:.3f}":
        return f"{first.name} and {second.name} come out the same, at {first.bits:.3f} bits per byte.{words}"
    return (
        f"{lower.name} needs {lower.bits:.3f} bits per byte of text that it has not read, "
        f"{higher.bits - lower.bits:.3f} less than {higher.name}.{words}"
    )


def _recipe(source: str, arguments: Arguments) -> Recipe:
    recipe = recipes.read(str(recipes.find(source)))
    steps = recipe.optim.steps if arguments.steps is None else arguments.steps
    optim = replace(recipe.optim, steps=steps, warmup=min(recipe.optim.warmup, steps))
    return replace(recipe, optim=optim, run=replace(recipe.run, folder=str(arguments.folder / Path(source).stem)))


def _trained(name: str, recipe: Recipe, bits: float) -> Trained:
    folder = Path(recipe.run.folder)
    speeds = [row["tokens_per_second"] for row in log.rows(folder, log.TIMING)]
    tokens = recipe.optim.steps * recipe.data.batch * recipe.data.window
    model = open_model(str(folder), device="cpu").model
    return Trained(name, folder, model.num_parameters(), tokens, median(speeds), bits)


def _table(trained: list[Trained], bits: dict[str, float]) -> Table:
    table = Table(title="Bits per byte of the held-out topics: lower is better", title_justify="left")
    table.add_column("")
    for heading in ("parameters", "tokens read", "tokens/s", "bits/byte"):
        table.add_column(heading, justify="right")
    best = min(row.bits for row in trained)
    for row in trained:
        shown = f"[bold]{row.bits:.3f}[/bold]" if row.bits == best else f"{row.bits:.3f}"
        table.add_row(
            row.name.replace("[", r"\["), f"{row.parameters:,}", f"{row.tokens:,}", f"{row.speed:,.0f}", shown
        )
    table.add_section()
    for name, value in bits.items():
        table.add_row(name, "", "", "", f"{value:.3f}")
    return table


def _picture(trained: list[Trained], folder: Path) -> str:
    if not figure.available():
        return f"No picture: {figure.ABSENT}.\n"
    file = folder / "demo.png"
    plot.draw({row.name: log.rows(row.folder) for row in trained}, file, title="The Python manual, byte by byte")
    return f"{'picture:':<12}{file}\n"


def _next(best: Trained) -> str:
    exgate = train.program()
    return f"""
Next:
  {exgate} generate {best.folder} "An expression" --temperature 0.5
  {exgate} evaluate {best.folder} --data README.md
  {exgate} train demo-xlstm --data.sources your/texts/*.txt --run.folder runs/mine
  {exgate} demo --folder runs/longer --steps 3000"""
