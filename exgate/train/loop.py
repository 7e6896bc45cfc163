"""The training loop: one step after the other, each of which can be the last without anything being lost."""

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from exgate import figure
from exgate.ops.state import detach, flatten, unflatten
from exgate.train import checkpoint, log, optim, plot

PRECISIONS = ("float32", "bfloat16")


class Batch(Protocol):
    """tokens, targets (-100: not scored) and reset, each (B, T)."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def reset(self) -> Tensor: ...


class Batches(Protocol):
    """An endless iterator of batches with a place that can be saved: `exgate.data.packing.Windows`."""

    stateful: bool

    def __next__(self) -> Any: ...
    @property
    def position(self) -> dict[str, int]: ...
    def seek(self, position: dict[str, int]) -> None: ...
    def describe(self, batch: Any, /) -> str: ...


class Result(NamedTuple):
    """How a run ended: the last step, what stopped it before its time ("Ctrl-C", "SIGTERM", or None), the last row and
    the last validation row of its metrics, and the seconds that this process has trained (validation included)."""

    step: int
    stopped_by: str | None
    last: dict[str, Any]
    validation: dict[str, Any]
    seconds: float


def train(
    model: nn.Module,
    batches: Batches,
    *,
    folder: str | os.PathLike[str],
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float],
    steps: int,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    tokenizer: checkpoint.Saved | None = None,
    bytes_per_token: float | None = None,
    identity: dict[str, Any] | None = None,
    microbatch: int = 0,
    clip: float = 1.0,
    precision: str = "float32",
    seed: int = 0,
    log_every: int = 10,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    keep: int = 2,
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    picture: bool = True,
    title: str = "",
    say: Callable[[str], None] | None = None,
    quiet: bool = False,
) -> Result:
    """Trains a language model, or goes on with the run that the folder holds, to the same end bit for bit.

    One step: the gradient of the mean loss over all targets of a batch (summed over microbatches, each divided by the
    number of targets of the whole batch), clipped, and one step of the optimizer.

    Args:
        model: a `LanguageModel`; on its device. Its loss(tokens, targets, state, reset=, reduction="sum") is minimised.
        batches: where the tokens come from. If it is stateful, the state is carried from batch to batch, detached.
        folder: of the run; holds `metrics.jsonl`, `checkpoints/`, `best/` and so on.
        optimizer, factor: the learning rate of step s is the optimizer's initial one times factor(s).
        steps: of the whole run, those before an interruption included.
        evaluate: model -> scores, among them "loss", the lowest of which is best; called in evaluation mode and without
            gradients.
        tokenizer: saved beside each model.
        bytes_per_token: of the text, for bits per byte.
        identity: what has to be the same when a run goes on (the text's fingerprint); compared with the checkpoint's.
        microbatch: rows at a time, 0 for all: less memory, the same gradient.
        clip: the largest norm of the gradient; 0 for no limit.
        precision: "bfloat16" for autocast; weights and optimizer stay in float32.
        seed: of dropout.
        log_every, evaluate_every, checkpoint_every: in steps; the last step does all three, 0 leaves it at that.
        keep: how many checkpoints stay, beside the best model.
        recompute: activation checkpointing. compile: torch.compile the loss.
        picture: draw `loss.png` at each checkpoint.
        say, quiet: where lines go; nothing but notes.
    Raises:
        FloatingPointError: the loss or the gradient is not finite; says at which step and batch. The step is not taken.
        exgate.train.checkpoint.Damaged, Unwritable: a checkpoint cannot be read, or written.
        ValueError: the run in the folder is another one, or an option makes no sense.
    """
    for name, value in {"steps": steps, "log_every": log_every, "keep": keep}.items():
        if value < 1:
            raise ValueError(f"train: {name}={value}; it should be at least 1")
    for name, value in {"microbatch": microbatch, "clip": clip, "seed": seed}.items():
        if not value >= 0:
            raise ValueError(f"train: {name}={value}; it should be 0 or more")
    if precision not in PRECISIONS:
        raise ValueError(f"train: there is no precision '{precision}'; choose one of {', '.join(PRECISIONS)}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(folder)
    run = _Run(model, batches, optimizer, factor, folder=Path(folder), tokenizer=tokenizer, identity=identity or {})
    run.options(microbatch=microbatch, clip=clip, precision=precision, recompute=recompute, compile=compile)
    run.bytes_per_token = bytes_per_token
    run.start(seed)
    first, seconds = run.step, time.monotonic()
    run.log = log.Log(folder, step=first, tensorboard=tensorboard)
    display = log.Display(steps, step=first, say=say, quiet=quiet)
    if first:
        display.note(f"going on from step {first} of {steps}")
    drawing = picture and figure.available()
    if picture and not drawing:
        display.note(f"no loss.png: {figure.ABSENT}")

    def due(every: int) -> bool:
        return run.step == steps or (every > 0 and run.step % every == 0)

    stopped_by = None
    try:
        with display, _signals() as asked:
            clock, tokens = time.monotonic(), 0
            while run.step < steps and stopped_by is None:
                tokens += run.advance()
                display.step(run.step)
                if due(log_every):
                    speed = tokens / max(1e-9, time.monotonic() - clock)
                    display.row(run.step, run.write_row(speed, time.monotonic() - seconds), speed)
                    clock, tokens = time.monotonic(), 0
                pause = time.monotonic()
                if evaluate is not None and due(evaluate_every):
                    display.note(run.validate(evaluate))
                stopped_by = asked.get("name") if run.step < steps else None
                if stopped_by or due(checkpoint_every):
                    run.save(keep)
                    if drawing:
                        plot.draw({title or "loss": log.rows(folder)}, Path(folder) / "loss.png")
                clock += time.monotonic() - pause
    finally:
        run.log.close()
    return Result(run.step, stopped_by, run.last, run.validation, time.monotonic() - seconds)


class _Run:
    """What changes from step to step, and how it is saved and found again."""

    log: log.Log

    def __init__(self, model, batches, optimizer, factor, *, folder: Path, tokenizer, identity: dict[str, Any]):
        self.model, self.batches, self.optimizer, self.factor = model, batches, optimizer, factor
        self.folder, self.tokenizer, self.identity = folder, tokenizer, identity
        self.device = next(model.parameters()).device
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.bytes_per_token: float | None = None
        self.step, self.tokens = 0, 0
        self.nats, self.targets, self.norm, self.rate = 0.0, 0, 0.0, 0.0  # since the last row
        self.best: float | None = None
        self.last: dict[str, Any] = {}
        self.validation: dict[str, Any] = {}
        self.states: list[Any] = []  # what each microbatch's rows carry to the next batch

    def options(self, *, microbatch: int, clip: float, precision: str, recompute: bool, compile: bool) -> None:
        self.microbatch, self.clip = microbatch, clip or math.inf
        self.autocast = (
            (lambda: torch.autocast(self.device.type, dtype=torch.bfloat16)) if precision == "bfloat16" else nullcontext
        )
        if recompute:
            for module in self.model.modules():
                if hasattr(module, "checkpoint"):
                    module.checkpoint = True
        self.loss: Any = torch.compile(self.model.loss) if compile else self.model.loss

    def start(self, seed: int) -> None:
        """Goes back to the newest checkpoint, or seeds everything anew."""
        newest = checkpoint.newest(self.folder)
        if newest is None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            return
        saved = checkpoint.load(newest)
        record = saved.record
        # What the checkpoint does not name was not yet compared when it was written.
        odd = sorted(key for key, value in record["identity"].items() if self.identity.get(key) != value)
        if odd:
            raise ValueError(
                f"train: the run in '{self.folder}' was started with another {', '.join(odd)}; "
                "use another folder for this one, or put back what has changed"
            )
        checkpoint.load_model(newest, self.model)
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "random": {}, "state": {}}
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest if part != "random" else name] = tensor
        optim.load_state_tensors(self.optimizer, self.model, parts["optimizer"])
        self.batches.seek(record["position"])
        self.step, self.tokens, self.best = saved.step, record["tokens"], record["best"]
        self.nats, self.targets = record["nats"], record["targets"]
        self.last, self.validation = record["last"], record["validation"]
        self.states = self._nested(parts["state"], record["states"])
        checkpoint.restore_random_states(parts["random"], record["random"])

    def _nested(self, tensors: dict[str, Tensor], count: int) -> list[Any]:
        """Carried states from their tensors; one token through the model shows how a state is nested."""
        if not count:
            return []
        training = self.model.training
        with torch.no_grad():
            like = self.model.eval()(torch.zeros(1, 1, dtype=torch.long, device=self.device))[1]
        self.model.train(training)
        found: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for name, tensor in tensors.items():
            number, _, rest = name.partition(".")
            found[int(number)][rest] = tensor.to(self.device)
        return [unflatten(part, like) for part in found]

    def advance(self) -> int:
        """One step; returns the number of targets. Raises FloatingPointError before a bad step is taken."""
        self.model.train()
        position = dict(self.batches.position)
        batch = next(self.batches)
        scored = int((batch.targets != -100).sum())
        parts = list(self._parts(batch))
        states = self.states or [None] * len(parts)
        if len(states) != len(parts):
            raise ValueError(
                f"train: the carried state is in {len(states)} microbatches, but this run makes {len(parts)}; "
                "go on with the batch and microbatch that it was started with"
            )
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, (tokens, targets, reset) in enumerate(parts):
            with self.autocast():
                nats, state = self.loss(tokens, targets, states[number], reset=reset, reduction="sum")
            # Divided by the targets of the whole batch, not of this part: k parts add up to one large batch.
            (nats / max(1, scored)).backward()
            total += nats.detach()
            states[number] = detach(state) if self.batches.stateful else None
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
        nats = float(total)
        if not (math.isfinite(nats) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(self._diverged(nats / max(1, scored), norm, position, batch))
        scale = self.factor(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.states = states if self.batches.stateful else []
        self.norm, self.rate = norm, self.rates[0] * scale
        self.step, self.tokens = self.step + 1, self.tokens + scored
        self.nats, self.targets = self.nats + nats, self.targets + scored
        return scored

    def _parts(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rows = self.microbatch or len(batch.tokens)
        for start in range(0, len(batch.tokens), rows):
            part = slice(start, start + rows)
            yield tuple(  # pyright: ignore[reportReturnType]
                tensor[part].to(self.device, non_blocking=True) for tensor in (batch.tokens, batch.targets, batch.reset)
            )

    def _diverged(self, loss: float, norm: float, position: dict[str, int], batch: Batch) -> str:
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm} (loss {loss:.4f})"
        place = ", ".join(f"{key} {value}" for key, value in position.items())
        newest = checkpoint.newest(self.folder)
        kept = f"the last good checkpoint is '{newest}'" if newest else "there is no checkpoint yet"
        return (
            f"train: {what} at step {self.step + 1}, on the batch at {place} ({self.batches.describe(batch)}). "
            f"The step was not taken; {kept}. A lower learning rate, a longer warm-up or a smaller clip usually helps."
        )

    def write_row(self, speed: float, seconds: float) -> dict[str, Any]:
        """Closes the meters and writes their row."""
        row: dict[str, Any] = {"step": self.step, "tokens": self.tokens, "loss": self.nats / max(1, self.targets)}
        if self.bytes_per_token:
            row["bits_per_byte"] = log.bits_per_byte(row["loss"], self.bytes_per_token)
        row |= {"lr": self.rate, "gradient_norm": self.norm}
        self.nats, self.targets, self.last = 0.0, 0, row
        self.log.metrics(row)
        self.log.timing({"step": self.step, "tokens_per_second": round(speed, 1), "seconds": round(seconds, 3)})
        return row

    def validate(self, evaluate: Callable[[nn.Module], dict[str, float]]) -> str:
        """Writes the validation row, keeps the model if it is the best so far, and says so."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            scores = evaluate(self.model)
        self.model.train()
        self.validation = {"step": self.step, "tokens": self.tokens}
        self.validation |= {f"validation_{name}": value for name, value in scores.items()}
        self.log.metrics(self.validation)
        words = [f"validation at step {self.step}: loss {scores['loss']:.4f}"]
        if "bits_per_byte" in scores:
            words.append(f"{scores['bits_per_byte']:.4f} bits/byte")
        if self.best is None or scores["loss"] < self.best:
            self.best = scores["loss"]
            checkpoint.save_best(self.folder, self.model, record=self.validation, tokenizer=self.tokenizer)
            words.append("the best so far")
        return ", ".join(words)

    def save(self, keep: int) -> None:
        """Writes a checkpoint of everything that the next step depends on."""
        self.log.sync()
        tensors, numbers = checkpoint.random_states()
        for name, tensor in optim.state_tensors(self.optimizer, self.model).items():
            tensors[f"optimizer.{name}"] = tensor
        for number, state in enumerate(self.states):
            tensors |= {f"state.{number}.{name}": tensor for name, tensor in flatten(state).items()}
        record = {
            "position": self.batches.position,
            "tokens": self.tokens,
            "nats": self.nats,
            "targets": self.targets,
            "best": self.best,
            "last": self.last,
            "validation": self.validation,
            "states": len(self.states),
            "identity": self.identity,
            "random": numbers,
        }
        checkpoint.save(
            self.folder, self.step, self.model, tensors=tensors, record=record, tokenizer=self.tokenizer, keep=keep
        )


@contextmanager
def _signals() -> Iterator[dict[str, str]]:
    """Notes Ctrl-C and SIGTERM for the end of the step, so as not to stop in its middle; a second Ctrl-C does."""
    asked: dict[str, str] = {}
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def note(number: int, _: object) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked["name"] = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        os.write(2, f"\n{asked['name']}: saving after this step (Ctrl-C stops at once, without)\n".encode())

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
