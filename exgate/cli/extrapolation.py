"""`exgate evaluate extrapolate`: runs beside each other on lengths beyond their training; no command itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tyro.conf import Positional, arg

from exgate import figure
from exgate.cli.model import open_model
from exgate.data import text
from exgate.evaluate import cache, extrapolate, picture
from exgate.train import checkpoint


@dataclass(frozen=True, kw_only=True)
class Arguments:
    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN ...")]
    """Run or model folders, or a folder of them."""
    data: Annotated[tuple[str, ...], arg(metavar="SOURCE ...")]
    """The sources of text, as in `exgate evaluate RUN`; their documents are read as one text."""
    window: Annotated[int, arg(metavar="N")] = 256
    """The length that the runs were trained with, in tokens."""
    times: Annotated[int, arg(metavar="N")] = 16
    """Up to how many windows are read at once."""
    batch: int = 1
    """Rows that are computed together."""
    device: Annotated[str | None, arg(metavar="NAME")] = None
    """cpu, cuda, ...; a GPU if there is one."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs", "evaluate", "extrapolate")
    """Where results.json and picture.png go."""


def evaluate(argv: list[str]) -> int:
    """Runs `exgate evaluate extrapolate` and returns its exit status."""
    words = "\n\nexample:\n  exgate evaluate extrapolate runs/xlstm runs/llama --data book.txt --window 256"
    description = f"{extrapolate.__doc__}{words}"
    arguments = tyro.cli(Arguments, prog="exgate evaluate extrapolate", description=description, args=argv)
    if arguments.window < 1 or arguments.times < 1 or arguments.batch < 1:
        raise ValueError("extrapolate: --window, --times and --batch should be at least 1.")
    documents = [words for source in arguments.data for _, words in text.documents(source)]
    length, found = arguments.window * arguments.times, {}
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for run, folder in _folders(arguments.runs).items():
            opened = open_model(str(folder), device=arguments.device)
            end = opened.tokenizer.end
            tokens = [token for words in documents for token in (*opened.tokenizer.encode(words), end)]
            task = bar.add_task(run, total=len(tokens) // length * length)

            def advance(count: int, task=task) -> None:
                bar.advance(task, count)

            by_position = extrapolate.losses(
                opened.model, tokens, length=length, end=end, batch=arguments.batch, on_progress=advance
            )
            perplexities = extrapolate.perplexities(by_position, arguments.window)
            found[run] = {"perplexities": perplexities, "losses": by_position.tolist()}
    _show(found, arguments)
    return 0


def _folders(runs: tuple[str, ...]) -> dict[str, Path]:
    """The model folder of each run; of a folder that is none itself, of the runs in it. One without a model is named
    here, before the first is read."""
    if not runs:
        raise ValueError("extrapolate: there is no run. Give run folders, or a folder of them.")
    found = []
    for run in runs:
        path = Path(run)
        inside = [str(entry) for entry in sorted(path.iterdir()) if _is_run(entry)] if path.is_dir() else []
        found += inside if inside and not _is_run(path) else [run]
    return {run: checkpoint.model_folder(run) for run in found}


def _is_run(path: Path) -> bool:
    return any(any(path.glob(name)) for name in ("config.json", "recipe.toml", "checkpoints", "best", "*.safetensors"))


def _show(found: dict, arguments: Arguments) -> None:
    table = Table(title=f"extrapolate, trained on {arguments.window} tokens", caption="perplexity per token")
    table.add_column("run")
    for times in next(iter(found.values()))["perplexities"]:
        table.add_column(f"{times}x", justify="right")
    for run, entry in found.items():
        table.add_row(run, *(f"{value:.4g}" for value in entry["perplexities"].values()))
    Console(soft_wrap=True).print(table)
    cache.write(arguments.out / "results.json", {"window": arguments.window, "runs": found})
    print(f"numbers: {arguments.out / 'results.json'}")
    # Means over stretches of a quarter window: single positions are noise.
    stretch = max(1, arguments.window // 4)
    curves = {}
    for run, entry in found.items():
        parts = [entry["losses"][begin : begin + stretch] for begin in range(0, len(entry["losses"]), stretch)]
        means = [sum(part) / len(part) for part in parts]
        curves[run] = ([stretch * (place + 0.5) for place in range(len(means))], means)
    panels, x, y = {"loss by position": curves}, "position", "nats per token"
    figure.show(
        lambda path: picture.curves(panels, path, x=x, y=y, mark=arguments.window), arguments.out / "picture.png"
    )
