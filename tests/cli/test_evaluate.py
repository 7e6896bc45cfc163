"""`exgate evaluate`: the numbers of the library in a table and in a file, and mistakes in words."""

import json
import math

import pytest

import exgate
from exgate.cli import main
from exgate.data.tokens import ByteTokenizer
from exgate.evaluate import cache
from exgate.evaluate.perplexity import score
from exgate.models import io, xlstm
from exgate.models.compact import compact

TEXTS = {"a.txt": "one two three\n" * 9, "b.txt": "Ünicode, too. " * 5, "c.txt": "x"}


@pytest.fixture
def texts(tmp_path):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def evaluate(folder, *words: object) -> int:
    return main(["evaluate", str(folder), *map(str, words)])


def expected(folder, names, **options) -> dict[str, float]:
    parts = [TEXTS[name] for name in names]
    encoder = ByteTokenizer()
    counts = [[len(text.encode()) for text in parts], [len(text.split()) for text in parts]]
    return score(exgate.load(folder), [encoder.encode(text) for text in parts], *counts, end=256, **options)


@pytest.mark.parametrize("words", [("--window", 50), ("--stateful", "--window", 16, "--batch", 2)])
def test_the_numbers_are_those_of_the_library(folder, texts, capsys, words):
    file = texts / "scores.json"
    sources = [texts / "a.txt", texts / "[bc].txt"]
    assert evaluate(folder, "--data", *sources, "--json", file, *words) == 0
    shown = capsys.readouterr()
    numbers = json.loads(file.read_text())
    options = {"window": words[-1] if "--batch" not in words else 16, "stateful": "--stateful" in words}
    assert numbers["total"] == pytest.approx(expected(folder, TEXTS, **options), rel=1e-5)
    assert list(numbers["sources"]) == [str(source) for source in sources]
    assert numbers["sources"][str(sources[1])] == pytest.approx(
        expected(folder, ["b.txt", "c.txt"], **options), rel=1e-5
    )
    assert f"{numbers['total']['bits_per_byte']:.4f}" in shown.out
    assert "documents" not in numbers
    assert shown.err == "", "no progress bar where nobody looks"


def test_each_document_on_request(folder, texts, capsys):
    file = texts / "scores.json"
    assert evaluate(folder, "--data", texts / "*.txt", "--documents", "--json", file) == 0
    numbers = json.loads(file.read_text())
    assert [document["tokens"] for document in numbers["documents"]] == [len(t.encode()) for t in TEXTS.values()]
    assert numbers["window"] == 2048
    total = math.fsum(document["loss"] * document["tokens"] for document in numbers["documents"])
    assert numbers["total"]["loss"] == pytest.approx(total / numbers["total"]["tokens"])
    assert "a.txt" in capsys.readouterr().out.replace("\n", "").replace("│", "").replace(" ", "")


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_what_fewer_bits_cost(folder, texts, capsys, weights):
    file = texts / "scores.json"
    assert evaluate(folder, "--data", texts / "a.txt", "--weights", weights, "--json", file) == 0
    numbers, shown = json.loads(file.read_text()), capsys.readouterr().out
    assert numbers["total_without"] == pytest.approx(expected(folder, ["a.txt"], window=2048), rel=1e-5)
    text, encoder = TEXTS["a.txt"], ByteTokenizer()
    small = compact(exgate.load(folder), weights)
    sizes = [len(text.encode())], [len(text.split())]
    assert numbers["total"] == pytest.approx(
        score(small, [encoder.encode(text)], *sizes, end=256, window=2048), rel=1e-5
    )
    cost = numbers["total"]["bits_per_byte"] - numbers["total_without"]["bits_per_byte"]
    assert cost != 0
    assert f"{weights} weights cost {cost:+.4f} bits/byte" in shown


def test_what_json_cannot_say_is_null(folder, tmp_path):
    (tmp_path / "t.txt").write_text("x", encoding="utf-8")
    cache.write(tmp_path / "n.json", {"a": math.inf, "b": [math.nan, 1.0], "c": {"d": -math.inf}})
    assert json.loads((tmp_path / "n.json").read_text()) == {"a": None, "b": [None, 1.0], "c": {"d": None}}
    assert {file.name for file in tmp_path.iterdir()} == {"t.txt", "n.json"}


@pytest.mark.parametrize("stateful", [False, True])
def test_the_text_that_a_run_set_aside(stateful, tmp_path, capsys):
    """Without --data the numbers are those that training wrote for its best model."""
    sources = [f"document {n}: " + f"{n % 7} and {n % 5} make so many. " * 20 for n in range(20)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in sources))
    run, file = tmp_path / "run", tmp_path / "scores.json"
    how = f"window = 32, batch = 4, stateful = {str(stateful).lower()}"
    (tmp_path / "recipe.toml").write_text(f"""
        model = {{name = "xlstm", dim = 16, blocks = 1, heads = 2}}
        data = {{sources = ["{tmp_path / "text.jsonl"}"], validation_fraction = 0.2, {how}}}
        optim = {{steps = 4, warmup = 1, lr = 1e-2}}
        run = {{folder = "{run}", picture = false}}
    """)
    assert main(["train", str(tmp_path / "recipe.toml")]) == 0
    capsys.readouterr()
    assert evaluate(run, "--json", file) == 0
    numbers = json.loads(file.read_text())
    assert (numbers["window"], numbers["stateful"]) == (None if stateful else 32, stateful)
    assert ("state carried through" if stateful else "windows of 32") in capsys.readouterr().out
    assert list(numbers["sources"]) == ["validation text of the run"]
    best = json.loads((run / "best" / "score.json").read_text())
    assert numbers["total"]["loss"] == pytest.approx(best["validation_loss"], rel=1e-5)
    # The best model's own folder belongs to the run, too.
    assert evaluate(run / "best", "--json", file) == 0
    assert json.loads(file.read_text())["total"] == numbers["total"]
    # A window that is given is one, and other text is read as it is asked for.
    for words in (["--window", 32], ["--data", tmp_path / "text.jsonl"]):
        assert evaluate(run, "--json", file, *words) == 0
        assert json.loads(file.read_text())["stateful"] is False
    # Once the sources have changed, what would be set aside now may have been trained on.
    with open(tmp_path / "text.jsonl", "a") as stream:
        stream.write("".join(json.dumps({"text": f"more, {n}. " * 60}) + "\n" for n in range(20)))
    capsys.readouterr()
    assert evaluate(run) == 2
    assert f"({tmp_path / 'text.jsonl'}) has changed since it was trained" in capsys.readouterr().err


def test_the_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "exgate evaluate runs/small --data" in shown
    for option in ("--window", "--stateful", "--batch", "--json", "--data"):
        assert option in shown


def test_mistakes_are_told(folder, texts, capsys):
    (texts / "empty.txt").write_text("  \n")

    def refuse(*words: object, model=folder) -> str:
        assert evaluate(model, *words) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err

    assert "is not a run with validation text of its own. Give --data" in refuse()
    assert "there is no file or folder" in refuse("--data", texts / "d.txt")
    assert "holds no text" in refuse("--data", texts / "empty.txt")
    assert "window is 0" in refuse("--data", texts / "a.txt", "--window", 0)
    assert "batch 0" in refuse("--data", texts / "a.txt", "--batch", 0)
    assert "there is no folder" in refuse("--data", texts / "a.txt", "--json", texts / "no" / "x.json")
    assert "there is no run or model" in refuse("--data", texts / "a.txt", model="nothing at all")
    other = texts / "other"
    io.save(xlstm.build(xlstm.Config(vocab_size=40, dim=16, blocks=1, heads=2)), other)
    assert "has no tokenizer.json" in refuse("--data", texts / "a.txt", model=other)
    ByteTokenizer().save(other)
    assert "wrong tokenizer" in refuse("--data", texts / "a.txt", model=other)
