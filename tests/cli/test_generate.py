"""`exgate generate`: text on standard output and nothing else, breaks without a trace, and mistakes in words."""

import io as streams
import sys

import pytest
import torch

import exgate
from exgate.cli import main
from exgate.cli.model import open_model
from exgate.data.tokens import ByteTokenizer
from exgate.generate.text import complete
from exgate.models import io, xlstm
from exgate.models.compact import compact


@pytest.fixture
def run(folder, capsys):
    """Run `exgate generate` on the tiny model: its standard output. Its notes are in `run.notes`."""

    def call(*words: object, model=folder) -> str:
        status = main(["generate", str(model), *map(str, words)])
        captured = capsys.readouterr()
        call.notes = captured.err
        assert status == 0, captured.err
        return captured.out

    return call


@pytest.fixture
def refuse(folder, capsys):
    """Run `exgate generate` where it must not work: its one sentence."""

    def call(*words: object, model=folder) -> str:
        assert main(["generate", str(model), *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err
        return captured.err

    return call


def test_the_text_is_that_of_the_library(folder, run):
    model = exgate.load(folder)
    for words, options in {
        ("--temperature", "0"): {"temperature": 0.0},
        ("--seed", "4"): {"seed": 4, "temperature": 0.8},
        ("--seed", "4", "--temperature", "1.2", "--top-k", "30", "--top-p", "0.8", "--min-p", "0.02",
         "--repetition-penalty", "1.2"): {
            "seed": 4, "temperature": 1.2, "top_k": 30, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.2,
        },
    }.items():  # fmt: skip
        expected = complete(model, ByteTokenizer(), "Once", max_tokens=30, **options)
        assert run("Once", "--max-tokens", 30, *words) == expected + "\n"
        assert "tokens/s" in run.notes


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_weights_in_fewer_bits(folder, run, weights):
    small = compact(exgate.load(folder), weights)
    expected = complete(small, ByteTokenizer(), "Once", max_tokens=30, temperature=0.0)
    assert run("Once", "--max-tokens", 30, "--temperature", 0, "--weights", weights) == expected + "\n"


def test_without_a_seed_it_is_drawn_and_printed(run):
    texts = [run("Once", "--max-tokens", 40) for _ in range(2)]
    assert texts[0] != texts[1]
    seed = run.notes.strip().rpartition("seed ")[2]
    assert run("Once", "--max-tokens", 40, "--seed", seed) == texts[1]


@pytest.mark.parametrize("words", [("--temperature", "0"), ("--seed", "3")], ids=["greedy", "sampled"])
def test_a_break_leaves_no_trace(run, tmp_path, words):
    whole = run("Once", "--max-tokens", 40, *words)
    for first in (0, 7, 22, 39):
        part = run("Once", "--max-tokens", first, "--state", tmp_path / "s.safetensors", *words)
        assert "--from-state" in run.notes
        rest = [word for word in words if words[0] != "--seed"] or ["--temperature", "0.8"]
        after = run("--max-tokens", 40 - first, "--from-state", tmp_path / "s.safetensors", *rest)
        assert part + after == whole


def test_a_break_inside_a_stop_string_leaves_no_trace(folder, run, tmp_path):
    ids = (
        exgate.load(folder).generate([[256, *b"Once"]], max_tokens=40, temperature=0, vocab_size=257).tokens[0].tolist()
    )
    place = next(i for i in range(5, 40) if all(97 <= letter < 123 for letter in ids[i : i + 2]))
    stop = ("--temperature", 0, "--stop", bytes(ids[place : place + 2]).decode())
    first = next(i for i in range(40) if ids[i : i + 2] == ids[place : place + 2])
    whole = run("Once", "--max-tokens", 40, *stop)
    part = run("Once", "--max-tokens", first + 1, "--state", tmp_path / "s.safetensors", *stop)
    assert part + run("--from-state", tmp_path / "s.safetensors", *stop) == whole


def test_a_state_goes_on_with_a_prompt_or_in_several_ways(run, tmp_path):
    file = tmp_path / "s.safetensors"
    run("Once", "--max-tokens", 0, "--state", file)
    assert run(" upon", "--temperature", 0, "--max-tokens", 30, "--from-state", file) == run(
        "Once upon", "--temperature", 0, "--max-tokens", 30
    )
    several = run("--from-state", file, "--count", 3, "--seed", 1, "--max-tokens", 20)
    assert several == run("--from-state", file, "--count", 3, "--seed", 1, "--max-tokens", 20)
    texts = several.split("---")[2::2]
    assert len(texts) == len(set(texts)) == 3


def test_several_texts_are_those_of_their_seeds(run):
    several = run("Once", "--count", 3, "--seed", 5, "--max-tokens", 20)
    for row in range(3):
        text = run("Once", "--seed", 5 + row, "--max-tokens", 20)
        assert f"--- {row + 1} of 3, seed {5 + row} ---\nOnce{text}" in several


def test_stop_strings_end_the_text(run):
    words = ("Once", "--temperature", 0, "--max-tokens", 60)
    text = run(*words)
    letters = next(text[i : i + 2] for i in range(5, 50) if text[i : i + 2].isascii() and text[i].isalpha())
    assert run(*words, "--stop", "never this", "--stop", letters) == text[: text.index(letters)] + "\n"


def test_prompts_from_files(run, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("Once upon\n", encoding="utf-8")
    words = ("--temperature", 0, "--max-tokens", 20)
    expected = run("Once upon\n", *words)
    assert run("--prompt-file", tmp_path / "prompt.txt", *words) == expected
    monkeypatch.setattr(sys, "stdin", streams.StringIO("Once upon\n"))
    assert run("--prompt-file", "-", *words) == expected


def test_a_prompt_of_any_length_is_read(run, tmp_path):
    (tmp_path / "long.txt").write_text("word " * 4000, encoding="utf-8")
    run("--prompt-file", tmp_path / "long.txt", "--max-tokens", 3)


def test_text_comes_as_it_is_written(folder, monkeypatch):
    class Terminal(streams.StringIO):
        pieces = 0

        def flush(self):
            self.pieces += 1

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["generate", str(folder), "Once", "--max-tokens", "20", "--temperature", "0"]) == 0
    assert terminal.pieces > 10


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert 'exgate generate runs/small "' in shown
    for option in ("--max-tokens", "--top-k", "--from-state", "--stop", "--prompt-file", "--repetition-penalty"):
        assert option in shown


def test_mistakes_are_told(refuse, folder, tmp_path):
    for words, sentence in {
        ("--temperature", "-1"): "temperature is -1.0, but must be 0 or more",
        ("--top-p", "0"): "top_p is 0.0",
        ("--max-tokens", "-3"): "max_tokens is -3",
        ("--count", "0"): "--count is 0",
        ("--stop", ""): "a stop sequence is empty",
        ("Once", "--prompt-file", "x"): "a prompt and a --prompt-file",
        ("--prompt-file", "nothing.txt"): "nothing.txt: No such file",
        ("--from-state", "nothing"): "there is no state file nothing",
        ("--from-state", folder / "config.json"): "is damaged, or no state file",
        ("--state", "no/where"): "there is no folder 'no'",
        ("--device", "abacus"): "device 'abacus' cannot be used",
        ("--dtype", "int3"): "dtype is 'int3', but should be one of float32",
        ("--tokenizer", "nowhere"): "there is no tokenizer file or folder 'nowhere'",
    }.items():
        assert sentence in refuse(*words)
    assert "there is no run or model 'nothing at all'. `exgate train` makes one." in refuse(model="nothing at all")
    (tmp_path / "small").mkdir()
    assert f"Did you mean '{tmp_path / 'small'}'?" in refuse("Once", model=tmp_path / "smal")
    assert "neither a model folder" in refuse("Once", model=tmp_path)


def test_a_missing_or_wrong_tokenizer_is_told(refuse, tmp_path):
    model = xlstm.build(xlstm.Config(vocab_size=40, dim=16, blocks=1, heads=2))
    io.save(model, tmp_path)
    assert "has no tokenizer.json" in refuse("Once", model=tmp_path)
    ByteTokenizer().save(tmp_path)
    assert "wrong tokenizer: it has 257 tokens, but the model's vocabulary has 40" in refuse("Once", model=tmp_path)


def test_the_state_of_another_model_is_refused(refuse, run, tmp_path):
    run("Once", "--max-tokens", 3, "--state", tmp_path / "s.safetensors")
    other = tmp_path / "other"
    io.save(xlstm.build(xlstm.Config(vocab_size=257, dim=32, blocks=2, heads=2, pattern="ms")), other)
    ByteTokenizer().save(other)
    assert "dim = 16 there and 32 here" in refuse("--from-state", tmp_path / "s.safetensors", model=other)


def test_texts_of_a_state_keep_their_number(refuse, run, tmp_path):
    file = tmp_path / "s.safetensors"
    first = run("Once", "--count", 2, "--seed", 1, "--max-tokens", 5, "--state", file)
    both = run("--from-state", file, "--max-tokens", 5)
    whole = run("Once", "--count", 2, "--seed", 1, "--max-tokens", 10)
    for row in range(2):
        ours = [text.split("---")[2 * row + 2] for text in (first, both, whole)]
        assert ours[2].strip("\n") == ours[0].strip("\n") + ours[1].strip("\n")
    assert "the state holds 2 texts, which cannot become 5" in refuse("--from-state", file, "--count", 5)


def test_too_little_memory_is_one_sentence(folder, refuse, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("exgate.cli.generate.write", full)
    assert "the memory is too small for this. Take a smaller --count" in refuse("Once")


def test_number_types_and_devices(folder):
    assert open_model(str(folder), dtype="bfloat16", device="cpu").model.embed.weight.dtype == torch.bfloat16
    file = open_model(str(folder / "model.safetensors")) if (folder / "model.safetensors").exists() else None
    assert file is not None
    assert not file.model.training
