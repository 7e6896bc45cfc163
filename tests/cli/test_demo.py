"""The demo runs from end to end, its table is right, and its two models are fairly matched."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from exgate.cli import demo, recipe, train
from exgate.data.text import documents, split
from exgate.models import io


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo's recipes with small models on little text, in a folder of their own."""
    text = tmp_path / "text"
    text.mkdir()
    for number in range(20):
        (text / f"{number}.txt").write_text(f"The import statement number {number} imports module m{number}.\n" * 20)
    models = {}
    for name, model in (("xLSTM[1:1]", 'name = "xlstm"\ndim = 16\nblocks = 2\npattern = "ms"\nheads = 2'),
                        ("LSTM", 'name = "lstm"\ndim = 16\nlayers = 1')):  # fmt: skip
        file = tmp_path / f"tiny-{name[:4].lower()}.toml"
        data = f'sources = ["{text}"]\nvalidation_fraction = 0.1\nwindow = 32\nbatch = 4\nstateful = true'
        file.write_text(f"[model]\n{model}\n[data]\n{data}\n[optim]\nsteps = 12\nwarmup = 2\n[run]\nlog_every = 3\n")
        models[name] = str(file)
    monkeypatch.setattr(demo, "MODELS", models)
    monkeypatch.setattr(demo, "PASSAGE", 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_demo_from_end_to_end(small: Path, capsys: pytest.CaptureFixture[str]):
    threads = torch.get_num_threads()
    assert demo.main([]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    for words in ("xLSTM[1:1]", "LSTM", "gzip -9", "bzip2 -9", "xz -9", "bits per byte", "The import statement"):
        assert words in out
    assert (small / "runs" / "demo.png").stat().st_size > 1000
    assert (small / "runs" / "tiny-lstm" / "metrics.jsonl").exists()
    assert f"Next:\n  {train.program()} generate" in out


def test_a_finished_demo_is_shown_again(small: Path, capsys: pytest.CaptureFixture[str]):
    demo.main([])
    before = _table(capsys.readouterr().out)
    metrics = (small / "runs" / "tiny-lstm" / "metrics.jsonl").read_bytes()
    demo.main([])
    after = _table(capsys.readouterr().out)
    assert before == after
    assert (small / "runs" / "tiny-lstm" / "metrics.jsonl").read_bytes() == metrics


def test_a_demo_of_other_steps_says_what_to_do(small: Path, capsys: pytest.CaptureFixture[str], interrupted):
    assert demo.main(["--folder", "dm", "--steps", "9"]) == 130
    assert f"Go on with: {train.program()} demo --folder dm --steps 9\n" in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"steps was 9 and is now 12.*; give the same --steps as before, or another --fol"
    ):
        demo.main(["--folder", "dm"])


def test_steps_and_folder_override_the_recipes():
    chosen = demo._recipe("demo-lstm", demo.Arguments(folder=Path("there"), steps=7))
    assert chosen.optim.steps == 7
    assert chosen.optim.warmup <= 7
    assert chosen.run.folder == str(Path("there", "demo-lstm"))
    with pytest.raises(ValueError, match="--steps is 0"):
        demo.main(["--steps", "0"])


def test_compressors_are_given_the_training_text():
    chosen = recipe.read("demo-lstm")
    bits = demo.compressed(chosen)
    parts = split(documents("python-manual"), chosen.data.validation_fraction, chosen.optim.seed)
    before, after = ("".join(text for _, text in part).encode() for part in parts)
    alone = 8 * len(gzip.compress(after, 9)) / len(after)
    given = 8 * (len(gzip.compress(before + after, 9)) - len(gzip.compress(before, 9))) / len(after)
    assert bits["gzip -9"] == pytest.approx(given)
    assert bits["gzip -9"] < alone
    assert 0.5 < bits["xz -9"] < bits["gzip -9"] < 3


def test_the_recipes_are_a_fair_match():
    one, other = (recipe.read(name) for name in demo.MODELS.values())
    assert one.data == other.data, "the same text in the same order"
    assert (one.optim.steps, one.optim.seed, one.optim.schedule) == (
        other.optim.steps,
        other.optim.seed,
        other.optim.schedule,
    )
    differing = {key for key in vars(one.optim) if getattr(one.optim, key) != getattr(other.optim, key)}
    assert differing <= {"lr"}
    sizes = []
    for chosen in (one, other):
        config = io.config_from_dict({**io.config_to_dict(chosen.model), "vocab_size": 257})
        sizes.append(io.build(config, device="meta").num_parameters())
    assert abs(sizes[0] - sizes[1]) <= 0.01 * max(sizes), f"{sizes} differ by more than one percent"
    letters = (one.model.pattern * one.model.blocks)[: one.model.blocks]
    assert letters.count("m") == letters.count("s"), "xLSTM[1:1]"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (1.5, 1.6, ["xLSTM needs 1.500", "0.100 less than LSTM", "below gzip -9."]),
        (1.7, 1.4, ["LSTM needs 1.400", "0.300 less than xLSTM", "below gzip -9 and xz -9."]),
        (3.0, 3.0, ["come out the same", "compressors are all below"]),
    ],
)
def test_verdict_says_what_came_out(first: float, second: float, words: list[str]):
    rows = [demo.Trained(name, Path(name), 1, 1, 1.0, bits) for name, bits in (("xLSTM", first), ("LSTM", second))]
    sentence = demo.verdict(rows, {"gzip -9": 2.0, "xz -9": 1.45})
    for part in words:
        assert part in sentence


def _table(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("│")]
