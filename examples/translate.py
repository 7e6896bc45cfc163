"""Translation: an LSTM encoder-decoder with attention (Bahdanau et al. 2015) learns from pairs of sentences.

    python examples/translate.py --demo [--picture map.png]
    python examples/translate.py FOLDER --source de --target en [--picture map.png] [--save MODEL]

FOLDER holds train.de and train.en with a sentence a line, and val and test likewise (.gz will do), as Multi30k comes;
of several test sets, --test names one (test_2016_flickr).
MODEL takes a checkpoint after each epoch: the same command again goes on where it was stopped. The demonstration needs
no files: number words to digits, a minute. BPE needs the extra `text`, the picture `plot`; with `bleu` installed, the
test set's BLEU is printed too.
"""

import argparse
import hashlib
import math
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import exgate
from exgate.data import parallel
from exgate.data.tokens import BPETokenizer
from exgate.generate.beam import Hypothesis, beam_search
from exgate.models import seq2seq
from exgate.train import checkpoint
from exgate.train.optim import load_state_tensors, schedule, state_tensors
from exgate.train.plot import draw_attention


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--demo", action="store_true", help="number words to digits, without files")
    for side, language in (("--source", "de"), ("--target", "en")):
        parser.add_argument(side, default=language, help="ending of the files' names")
    parser.add_argument("--test", default="test", metavar="NAME", help="which files to test on: test_2016_flickr, ...")
    parser.add_argument("--pairs", type=int, help="learn from so many only")
    parser.add_argument("--vocab", type=int, default=6000, help="tokens of the BPE")
    for side in ("--encoder", "--decoder"):
        parser.add_argument(side, choices=seq2seq.CELLS, default="lstm")
    flags = {"joint": "one BPE for both languages", "no-attention": "the decoder has the encoder's final state alone"}
    flags |= {"reverse": "read the source from its end", "one-way": "an encoder that reads in one direction only"}
    for name, words in flags.items():
        parser.add_argument(f"--{name}", action="store_true", help=words)
    numbers = {"layers": 1, "dim": 256, "hidden": 384, "dropout": 0.4, "batch": 64, "lr": 1e-3, "epochs": 12}
    for name, value in (numbers | {"patience": 2, "beam": 5, "seed": 0}).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--picture", help="a PNG of where the decoder looked")
    parser.add_argument("--save", help="a folder for the model and its tokenizers")
    options = parser.parse_args()
    if options.demo == bool(options.folder):
        parser.error("give a FOLDER, or --demo")
    if options.demo:
        parser.set_defaults(vocab=300, joint=True, dim=64, hidden=128, dropout=0.0, batch=32, lr=3e-3, epochs=4)
    return parser.parse_args()


def train(model: seq2seq.Seq2Seq, data: dict[str, list[parallel.Pair]], ends: dict[str, int], options, folder) -> None:
    """Adam with clipping and a falling rate; the weights of the epoch with the best validation loss are kept."""
    steps = math.ceil(len(data["train"]) / options.batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    factor = schedule("cosine", steps=steps * options.epochs, warmup=min(200, steps), min_ratio=0.02)
    done, best, bad = resume(model, optimizer, options, folder)
    began = time.perf_counter()
    for epoch in range(done + 1, options.epochs + 1):
        if bad >= options.patience:
            break
        total = 0.0
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"epoch {epoch}", total=steps)
            batches = parallel.batches(data["train"], options.batch, seed=options.seed + epoch, **ends)
            for step, batch in enumerate(batches, (epoch - 1) * steps):
                optimizer.param_groups[0]["lr"] = options.lr * factor(step)
                loss = model.loss(*batch)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                total += loss.item()
                bar.update(task, advance=1, description=f"epoch {epoch}, loss {loss.item():.2f}")
        held_out, minutes = validate(model, data["val"], ends, options.batch), (time.perf_counter() - began) / 60
        print(f"epoch {epoch}: training {total / steps:.3f}, validation {held_out:.3f} nats a token, {minutes:.1f} min")
        best, bad = (held_out, 0) if held_out < best else (best, bad + 1)
        if not bad:
            checkpoint.save_best(folder, model, record={"loss": best})
        tensors, random = checkpoint.random_states()
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state_tensors(optimizer, model).items()}
        record = {"best": best, "bad": bad, "random": random, "options": identity(options)}
        checkpoint.save(folder, epoch, model, tensors=tensors, record=record, keep=1)
    checkpoint.load_model(Path(folder, checkpoint.BEST), model)


def resume(model: seq2seq.Seq2Seq, optimizer: torch.optim.Optimizer, options, folder) -> tuple[int, float, int]:
    """Goes back to the folder's checkpoint: epochs done, best validation loss, epochs since then."""
    newest = checkpoint.newest(folder)
    if newest is None:
        return 0, math.inf, 0
    saved = checkpoint.load(newest)
    if saved.record["options"] != identity(options):
        raise SystemExit(
            f"translate: '{folder}' holds a run with other options or another text. Name another folder with --save."
        )
    checkpoint.load_model(newest, model)
    parts = {name.removeprefix("optimizer."): tensor for name, tensor in saved.tensors.items() if "random" not in name}
    load_state_tensors(optimizer, model, parts)
    checkpoint.restore_random_states(saved.tensors, saved.record["random"])
    print(f"going on after epoch {saved.step}")
    return saved.step, saved.record["best"], saved.record["bad"]


def identity(options) -> dict:
    """The options that a run's weights depend on, with the fingerprint of its text."""
    free = ("folder", "test", "beam", "picture", "save")  # the folder's text counts, not its name
    return {name: value for name, value in vars(options).items() if name not in free}


@torch.inference_mode()
def validate(model: seq2seq.Seq2Seq, pairs: list[parallel.Pair], ends: dict[str, int], size: int) -> float:
    model.eval()
    total, count = 0.0, 0
    for batch in parallel.batches(pairs, size, seed=0, **ends):
        total += model.loss(*batch, reduction="sum").item()
        count += int((batch.targets != parallel.IGNORED).sum())
    model.train()
    return total / count


def translate(model: seq2seq.Seq2Seq, pairs: list[parallel.Pair], ends: dict[str, int], options) -> list[Hypothesis]:
    """The best translation of each source, in their order."""
    found, target = [], {"start": ends["start"], "end": ends["end"], "beam": options.beam}
    for batch in parallel.batches(pairs, options.batch, **ends):
        found += beam_search(model, batch.source, batch.lengths, max_tokens=10 + 2 * batch.source.shape[1], **target)
    return [hypotheses[0] for hypotheses in found]


def main() -> None:
    torch.manual_seed((options := parse()).seed)
    if options.demo:
        text = {s: parallel.number_pairs(n, seed) for seed, (s, n) in enumerate({"train": 6000, "val": 300}.items())}
        text["test"] = [pair for pair in parallel.number_pairs(400, 2) if pair not in text["train"]]
    else:
        names = {"train": "train", "val": "val", "test": options.test}
        try:
            text = {s: parallel.read(options.folder, n, options.source, options.target) for s, n in names.items()}
        except (OSError, ValueError) as error:
            raise SystemExit(f"translate: {error}") from None
    text["train"] = text["train"][: options.pairs]
    options.text = hashlib.sha256(repr((text["train"], text["val"])).encode()).hexdigest()[:12]
    sides = [list(side) for side in zip(*text["train"], strict=True)]
    sides = [sides[0] + sides[1]] * 2 if options.joint else sides
    source, target = (BPETokenizer.train(side, options.vocab) for side in sides)
    data = {split: parallel.encode(pairs, source, target) for split, pairs in text.items()}
    ends = {"source_end": source.end, "start": target.end, "end": target.end}
    config = seq2seq.Config(
        source_vocab=source.vocab_size, target_vocab=target.vocab_size, dim=options.dim, hidden=options.hidden,
        layers=options.layers, encoder=options.encoder, decoder=options.decoder, dropout=options.dropout,
        bidirectional=not options.one_way, attention=not options.no_attention, reverse=options.reverse,
    )  # fmt: skip
    model = seq2seq.build(config)
    print(f"{model.num_parameters():,} parameters, {len(text['train']):,} pairs to learn from")
    with tempfile.TemporaryDirectory() as temporary:
        train(model, data, ends, options, options.save or temporary)
    if options.save:
        exgate.save(model, options.save)
        source.save(f"{options.save}/source")
        target.save(f"{options.save}/target")

    found = translate(model, data["test"], ends, options)
    written, wanted = [target.decode(best.tokens).strip() for best in found], [pair[1] for pair in text["test"]]
    for (given, theirs), ours in list(zip(text["test"], written, strict=True))[:5]:
        print(f"  {given}\n  = {ours}\n    ({theirs})")
    right = sum(ours == theirs for ours, theirs in zip(written, wanted, strict=True))
    print(f"{right} of {len(written)} test sentences are exactly the reference")
    if options.picture and found[0].attention is not None:
        columns = [*(source.decode([token]) for token in data["test"][0][0]), "(end)"]
        rows = [target.decode([token]) for token in found[0].tokens] + ["(end)"] * found[0].ended
        print("where it looked:", draw_attention(found[0].attention, columns, rows, options.picture))
    try:
        from sacrebleu.metrics.bleu import BLEU  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("for BLEU: pip install 'exgate[bleu]'")
    else:
        bleu = BLEU()
        print(bleu.corpus_score(written, [wanted]), "|", bleu.get_signature())


if __name__ == "__main__":
    main()
