"""Train a language model on text, or go on with a run.

usage: exgate train [RECIPE] [--section.field value ...]

RECIPE is a TOML file, the name of one that comes with exgate ({recipes}), or the folder of a run; left
out, it is "small". Every field of it can be overridden by a flag; --model.name takes another model, with what it shares
of the recipe's [model] and with flags for the rest. The run's folder (runs/NAME, or --run.folder) takes the resolved
recipe, metrics.jsonl, loss.png, checkpoints and the best model. The same command again goes on where the run was
stopped, for whatever reason, and ends as if it had not been.

examples:
  exgate train
  exgate train small --data.sources books/*.txt.gz --run.folder runs/books
  exgate train lstm-small --optim.lr 3e-3 --optim.steps 500 --model.dim 192
  exgate train small --model.name mamba --run.folder runs/mamba
  exgate train runs/books
"""

import dataclasses
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from exgate import files
from exgate.cli import machine
from exgate.cli import recipe as recipes
from exgate.cli.recipe import Recipe
from exgate.data import text, tokens
from exgate.data.packing import Corpus, Windows
from exgate.data.text import Document
from exgate.data.tokens import BPETokenizer, ByteTokenizer, Tokenizer
from exgate.evaluate import perplexity
from exgate.models import io
from exgate.models.lm import parameter_groups
from exgate.train import checkpoint, optim
from exgate.train.loop import Result, train

Say = Callable[[str], None]
LOCK = ".lock"
# What the record of a checkpoint calls the fingerprint of the validation text.
HELD_OUT = "validation text"


def main(argv: list[str]) -> int:
    """Trains as the words after `exgate train` say; returns the exit status."""
    help = (__doc__ or "").format(recipes=", ".join(recipes.names()))
    named = bool(argv) and not argv[0].startswith("-")
    recipe = recipes.read(argv[0] if named else recipes.DEFAULT, argv[1:] if named else argv, help=help)
    result = run(recipe)
    folder = recipe.run.folder
    if result.stopped_by:
        print(f"Stopped at step {result.step} of {recipe.optim.steps} by {result.stopped_by}; everything is saved. "
              f"Go on with: {program()} train {folder}")  # fmt: skip
        return stopped(result)
    print(f"Finished {result.step} steps. The folder {folder} holds the best model, the last checkpoints and the "
          f"metrics.\nNext: {program()} generate {folder} \"The \"")  # fmt: skip
    return 0


def stopped(result: Result) -> int:
    """The exit status of a run that a signal has ended, as shells have it."""
    return 130 if result.stopped_by == "Ctrl-C" else 143


def program() -> str:
    """What to type for `exgate`: the name, or where the shell does not find it, the script beside this Python."""
    script = Path(sys.executable).with_name("exgate")
    if shutil.which("exgate") or not script.exists():
        return "exgate"
    return shlex.quote(str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script))


def run(
    recipe: Recipe,
    *,
    say: Say = print,
    quiet: bool = False,
    remedy: str = "name another run.folder for a new run",
) -> Result:
    """Trains as a recipe says, in its `run.folder`; goes on if there is a run in it already.

    Args:
        say, quiet: where lines go, and whether only notes are wanted, neither bar nor rows.
        remedy: what to do where the folder has a run with another recipe.
    Raises:
        ValueError, FileNotFoundError, ImportError, FloatingPointError, OSError: one sentence each.
    """
    folder = Path(recipe.run.folder)
    if not recipe.run.folder:
        raise ValueError("train: the recipe has no run.folder; name one")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"train: run.folder '{folder}' is a file; name a folder")
    with _alone(folder):
        _same_run(recipe, folder, remedy)
        return _run(recipe, folder, say, quiet)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in the folder at the same time, where the system can."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"train: another process is training in '{folder}'; wait for its end, or name another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _run(recipe: Recipe, folder: Path, say: Say, quiet: bool) -> Result:
    material = prepare(recipe, folder, say)
    recipe = with_vocabulary(recipe, material.tokenizer)
    batches = Windows(
        material.train,
        batch=recipe.data.batch,
        window=recipe.data.window,
        stateful=recipe.data.stateful,
        seed=recipe.optim.seed,
    )
    o = recipe.optim
    factor = optim.schedule(o.schedule, steps=o.steps, warmup=o.warmup, min_ratio=o.min_ratio, decay=o.decay)
    device = machine.device(recipe.run.device)
    torch.manual_seed(o.seed)
    model = io.build(recipe.model, device=device)
    optimizer = optim.adamw(parameter_groups(model, o.weight_decay), lr=o.lr, betas=o.betas, eps=o.eps)
    _keep(recipe, material.tokenizer, folder)
    say(f"{io.name(recipe.model)}: {sum(p.numel() for p in model.parameters()):,} parameters on {device}, in {folder}")
    say(material.summary())
    identity = {"text": material.train.fingerprint, "tokenizer": material.tokenizer.fingerprint}
    if material.validation:
        identity[HELD_OUT] = material.validation.fingerprint
    return train(
        model,
        batches,
        folder=folder,
        optimizer=optimizer,
        factor=factor,
        steps=o.steps,
        evaluate=scorer(material, recipe) if material.validation else None,
        tokenizer=material.tokenizer,
        bytes_per_token=material.train.bytes_per_token,
        identity=identity,
        microbatch=o.microbatch,
        clip=o.clip,
        precision=o.precision,
        seed=o.seed,
        title=folder.name,
        say=None if say is print else say,
        quiet=quiet,
        **{k: v for k, v in dataclasses.asdict(recipe.run).items() if k not in ("folder", "device")},
    )


class Material(NamedTuple):
    """What a run reads: the training text and, if there is any, the validation text, in tokens of a tokenizer."""

    tokenizer: Tokenizer
    train: Corpus
    validation: Corpus | None

    def summary(self) -> str:
        """One line on how much text there is."""
        parts = []
        for name, corpus in (("training", self.train), ("validation", self.validation)):
            if corpus is not None:
                size = int(corpus.text_bytes.sum())
                parts.append(f"{name}: {len(corpus.starts):,} documents, {size:,} bytes, {corpus.targets:,} tokens")
        return "; ".join(parts)


def prepare(recipe: Recipe, folder: Path, say: Say = print) -> Material:
    """Reads the text of a recipe, splits it, makes or loads the tokenizer, and encodes: into memory or `data.cache`."""
    cache = Path(recipe.data.cache) if recipe.data.cache else None
    wanted = recipes.to_dict(recipe)["data"] | {"seed": recipe.optim.seed}
    made_from = "\n".join(
        f"{k} = {v!r}" for k, v in wanted.items() if k not in ("cache", "window", "batch", "stateful")
    )
    if cache and (cache / "made-from.txt").exists():
        if (cache / "made-from.txt").read_text(encoding="utf-8") != made_from:
            raise ValueError(f"train: the tokens in '{cache}' were made from other data; name another data.cache")
        tokenizer = tokens.load(cache)
        held_out = Corpus.load(cache / "validation", tokenizer) if (cache / "validation").exists() else None
        return Material(tokenizer, Corpus.load(cache / "train", tokenizer), held_out)
    training, validation = documents(recipe, say)
    tokenizer = _tokenizer(recipe, folder, training)
    if not cache:
        held_out = Corpus.encode(validation(), tokenizer) if validation else None
        return Material(tokenizer, Corpus.encode(training(), tokenizer), held_out)
    cache.mkdir(parents=True, exist_ok=True)
    tokenizer.save(cache)
    say(f"writing the tokens of the text to {cache}")
    held_out = Corpus.prepare(validation(), tokenizer, cache / "validation") if validation else None
    corpus = Corpus.prepare(training(), tokenizer, cache / "train")
    files.write(cache / "made-from.txt", made_from)
    return Material(tokenizer, corpus, held_out)


def documents(
    recipe: Recipe, say: Say = print
) -> tuple[Callable[[], Iterator[Document]], Callable[[], Iterator[Document]] | None]:
    """Two functions that read the training and the validation documents, as often as they are called."""
    data = recipe.data

    def everything() -> Iterable[Document]:
        return text.documents(data.sources, errors=data.errors)

    if not data.cache or "-" in data.sources:
        # Text for memory is read once, and standard input cannot be read twice.
        read = list(everything())

        def everything() -> Iterable[Document]:
            return read

    if data.validation:
        return lambda: iter(everything()), lambda: _limited(
            text.documents(data.validation, errors=data.errors), data.validation_limit
        )
    decided = text.plan(everything(), data.validation_fraction, recipe.optim.seed, say=say)

    def part(held_out: bool) -> Iterator[Document]:
        return (piece for document in everything() for side, piece in decided.place(*document) if side == held_out)

    if not data.validation_fraction:
        return lambda: part(False), None
    return lambda: part(False), lambda: _limited(part(True), data.validation_limit)


def was_held_out(recipe: Recipe, docs: Iterable[Document]) -> bool:
    """Whether documents are what the run in `run.folder` was validated on, as far as its newest checkpoint says."""
    newest = checkpoint.newest(recipe.run.folder)
    if newest is None:
        return True
    record = json.loads((newest / checkpoint.RECORD).read_text(encoding="utf-8"))
    fingerprint = record["identity"].get(HELD_OUT)
    return fingerprint is None or Corpus.encode(docs, tokens.load(newest)).fingerprint == fingerprint


def scorer(material: Material, recipe: Recipe) -> Callable[[torch.nn.Module], dict[str, float]]:
    """The validation of a run: loss, perplexity and bits per byte, each document alone, by the rolling rule."""
    corpus = material.validation
    assert corpus is not None
    documents = [corpus.document(i) for i in range(len(corpus.starts))]
    sizes, words = corpus.text_bytes.tolist(), corpus.text_words.tolist()
    options: dict[str, Any] = {
        "window": recipe.data.window,
        "stateful": recipe.data.stateful,
        "batch": recipe.data.batch,
    }

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        scores = perplexity.score(model, documents, sizes, words, end=material.tokenizer.end, **options)
        return {name: scores[name] for name in ("loss", "perplexity", "bits_per_byte")}

    return evaluate


def with_vocabulary(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """The recipe with the tokenizer's vocabulary where it has none. Raises ValueError if it has one that cannot be."""
    if recipe.model.vocab_size == 0:
        return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, vocab_size=tokenizer.vocab_size))
    tokens.check(tokenizer, recipe.model.vocab_size)
    return recipe


def _same_run(recipe: Recipe, folder: Path, remedy: str) -> None:
    if not (folder / recipes.FILE).exists():
        if checkpoint.newest(folder):
            raise ValueError(f"train: '{folder}' has checkpoints but no {recipes.FILE}; name another run.folder")
        return
    if not checkpoint.newest(folder) and not (folder / checkpoint.BEST).exists():
        return  # a start that came to nothing: this recipe takes its place
    odd = recipes.differences(recipes.read(str(folder)), recipe)
    if odd:
        raise ValueError(
            f"train: the run in '{folder}' has another recipe: {'; '.join(odd)}. Only [run] may change when a run "
            f"goes on; {remedy}"
        )


def _tokenizer(recipe: Recipe, folder: Path, training: Callable[[], Iterator[Document]]) -> Tokenizer:
    # Without a checkpoint it may be what another recipe left.
    if (folder / tokens.FILE).exists() and checkpoint.newest(folder):
        return tokens.load(folder)
    kind = recipe.data.tokenizer
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "bpe":
        return BPETokenizer.train((document for _, document in training()), recipe.data.bpe_size)
    return tokens.load(kind)


def _keep(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the resolved recipe and the tokenizer, which make the run one that can be gone on with."""
    tokenizer.save(folder)
    files.write(folder / recipes.FILE, recipes.dumps(recipe))


def _limited(docs: Iterable[Document], limit: int) -> Iterator[Document]:
    taken = 0
    for document in docs:
        if limit and taken >= limit:
            return
        taken += len(document[1])
        yield document
