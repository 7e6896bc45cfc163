"""`exgate evaluate SUITE`: each suite's smoke, resumed, beside run folders of the same name, and mistakes in words."""

import json
import pickle

import pytest

from exgate import figure
from exgate.cli import OWN, extrapolation, main, suite, suites, table
from exgate.data import arena
from exgate.evaluate import cache, lra, trial
from tests.data import arena_sets

SUITES = suites()


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def test_help_has_them_all(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = capsys.readouterr().out
    assert {"formal", "recall", "nearest", "adding", "temporal-order", "gradient"} <= set(SUITES)
    for name in SUITES:
        assert f"\n│   {name} " in shown or f"\n  {name} " in shown, name
        with pytest.raises(SystemExit):
            main(["evaluate", name, "--help"])
        assert f"usage: exgate evaluate {name} " in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in SUITES if name not in OWN])
def test_smoke(name, tmp_path, capsys):
    words = [] if name == "gradient" else ["--models", "lstm,xlstm[0:1]-no-conv"]
    assert evaluate(name, "--preset", "smoke", "--out", tmp_path, *words) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert all(line.startswith("runs (of ") for line in lines), "no progress bar where nobody looks"
    assert len(lines) == (tmp_path / "runs.jsonl").read_text().count("\n") if words else not lines
    assert json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "picture.png").is_file() == figure.available()
    assert "results.json" in shown.out


def test_extrapolate(folder, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("so many words " * 40)
    words = ["extrapolate", folder, "--data", tmp_path / "t.txt", "--window", 16, "--times", 8, "--out", tmp_path]
    assert evaluate(*words) == 0
    found = json.loads((tmp_path / "results.json").read_text())["runs"][str(folder)]
    assert list(found["perplexities"]) == ["1", "2", "4", "8"]
    assert len(found["losses"]) == 128
    assert "8x" in capsys.readouterr().out
    runs = tmp_path / "runs"
    (runs / "evaluate" / "formal-small").mkdir(parents=True)  # where suites write
    (runs / "a").symlink_to(folder)
    assert list(extrapolation._folders((str(runs),))) == [str(runs / "a")]
    (runs / "b").mkdir()
    (runs / "b" / "recipe.toml").touch()
    assert evaluate("extrapolate", runs, *words[2:]) == 2
    assert f"the run '{runs / 'b'}' has written no checkpoint yet" in capsys.readouterr().err
    assert evaluate(*words, "--times", 999) == 2
    assert "the text has 561 tokens; a row has 15984. Give more text." in capsys.readouterr().err


def test_a_second_call_computes_nothing(tmp_path, capsys, monkeypatch):
    words = ["formal", "--preset", "smoke", "--problems", "parity", "--models", "lstm", "--rates", "1e-2,1e-3",
             "--seeds", 2, "--steps", 2, "--out", tmp_path]  # fmt: skip
    assert evaluate(*words) == 0
    first, (shown, lines) = (tmp_path / "results.json").read_text(), capsys.readouterr()
    rate = json.loads(first)["problems"]["parity"]["lstm"]["rate"]
    assert lines.splitlines() == [
        "runs (of 3 in all): 1/2, parity, lstm, rate 0.01, seed 0",
        "runs (of 3 in all): 2/2, parity, lstm, rate 0.001, seed 0",
        f"runs (of 3 in all): 1/1, parity, lstm, rate {rate}, seed 1",
    ]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "table.md").read_text().startswith("| model | parity, 20-30 |\n| --- | ---: |\n| lstm | ")
    monkeypatch.setattr(trial, "run", lambda configuration, make: pytest.fail("computed again"))
    assert evaluate(*words) == 0
    assert (tmp_path / "results.json").read_text() == first
    assert capsys.readouterr() == (shown, "")
    entry = json.loads(first)["problems"]["parity"]["lstm"]
    assert set(entry["validation"]) == {"0.01", "0.001"}
    runs = [json.loads(line)["result"] for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert entry["seconds"] == pytest.approx(sum(run["seconds"] for run in runs), abs=1e-3)
    assert entry["buckets"][0]["seeds"] == 2
    assert json.loads(first)["budget"]["steps"] == 2


def test_a_text_is_known_by_its_content(tmp_path, capsys):
    words = ["--preset", "smoke", "--models", "lstm", "--out", tmp_path]
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The same text. " * 200)
        assert evaluate("rare", "--data", tmp_path / name, *words) == 0
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
    assert str(tmp_path) not in (tmp_path / "runs.jsonl").read_text()
    assert evaluate("formal", "--data", tmp_path / "a.txt", *words) == 2
    assert "--data names a text, but formal reads none" in capsys.readouterr().err


def test_the_arena_has_what_is_in_the_folders(tmp_path):
    names = ["listops", "text", "retrieval", "image", "rgb-image"]
    for make in (arena_sets.text, arena_sets.retrieval, arena_sets.cifar):
        make(tmp_path / "data")
    if figure.available():
        arena_sets.pathfinder(tmp_path / "data")
        names.append("pathfinder")
    words = ["lra", "--preset", "smoke", "--models", "lstm", "--out", tmp_path]
    assert evaluate(*words, "--data", tmp_path / "data") == 0
    found = json.loads((tmp_path / "results.json").read_text())["problems"]
    assert list(found) == names
    assert all(0 <= entry["lstm"]["buckets"][0]["accuracy"]["mean"] <= 1 for entry in found.values())
    runs = (tmp_path / "runs.jsonl").read_text()
    assert (runs.count("\n"), str(tmp_path) in runs) == (len(names), False)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert evaluate(*words, "--data", tmp_path / "moved") == 0
    assert (tmp_path / "runs.jsonl").read_text() == runs, "computed again for a folder of another name"
    (tmp_path / "moved" / "aclImdb" / "test" / "pos" / "0_8.txt").write_text("Another one.")
    assert evaluate(*words, "--data", tmp_path / "moved") == 0
    assert (tmp_path / "runs.jsonl").read_text().count("\n") == len(names) + 1


def test_the_arena_says_what_it_does_not_read(tmp_path, capsys):
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert evaluate("lra", "--preset", "smoke", "--data", tmp_path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "cifar-10-batches-bin" in error
    assert error.count("\n") == 1


def test_tasks_are_sent_to_processes(tmp_path):
    arena_sets.text(tmp_path)
    make, reads = suite._tasks(lra, suite.Arguments(suite="lra", data=(str(tmp_path),)))
    sent = pickle.loads(pickle.dumps(make))
    assert sent("arena.text", data=reads["data"]["text"]).vocabulary == 257
    assert sent("listops.listops").outputs == 10


def test_the_settings_of_the_arena():
    made = lra.suite("paper", dict.fromkeys(arena.TASKS, ""))
    own = {problem.name: problem.own(made.budget) for problem in made.problems}
    found = {name: (budget.blocks, budget.dim, budget.batch, budget.steps) for name, budget in own.items()}
    assert found == {
        "listops": (8, 128, 32, 80_000),
        "text": (6, 128, 64, 100_000),
        "retrieval": (6, 128, 64, 100_000),
        "image": (6, 512, 64, 180_000),
        "rgb-image": (6, 512, 64, 180_000),
        "pathfinder": (6, 192, 64, 500_000),
    }
    changed = suite._changed(made, suite.Arguments(suite="lra", steps=7))
    assert {problem.own(changed.budget).steps for problem in changed.problems} == {7}, "--steps is for all problems"
    assert suite._changed(made, suite.Arguments(suite="lra", curriculum=0.5)).budget.curriculum == 0.5
    alone = lra.suite("paper").problems
    assert alone == made.problems[:1], "ListOps is the same run whatever else there is"


@pytest.mark.parametrize(
    ("name", "label", "mark"),
    [
        ("language", "nats", 16),
        ("nearest", "mean squared error", None),
        ("adding", "share of rows without an error", None),
    ],
)
def test_pictures_say_what_is_measured_and_how_far_training_went(name, label, mark, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("exgate.evaluate.picture.curves", lambda *_, **options: drawn.append(options) or tmp_path)
    assert evaluate(name, "--preset", "smoke", "--models", "lstm", "--out", tmp_path) == 0
    assert [(options["y"], options.get("mark")) for options in drawn] == [(label, mark)]


def test_a_wide_table_comes_in_parts():
    rows = [
        ["model", "a, 1-2", "b, 1-2", "c, 1-2"],
        ["lstm", "0.1 ± 0.2", "0.3", "0.5"],
        ["xlstm", "0.2", "0.4", "0.6"],
    ]
    assert list(table._parts(rows, 80)) == [rows]
    first, second = table._parts(rows, 30)
    assert first == [row[:3] for row in rows]
    assert second == [[row[0], row[3]] for row in rows]
    assert len(list(table._parts(rows, 5))) == 3, "one that fits nowhere is shown all the same"


def test_costs_are_columns(tmp_path):
    assert evaluate("language", "--preset", "smoke", "--models", "lstm,llama", "--out", tmp_path) == 0
    header, _, lstm, llama = (tmp_path / "table.md").read_text().splitlines()[:4]
    assert header.count("|") == lstm.count("|") == llama.count("|") == 8
    costs = json.loads((tmp_path / "results.json").read_text())["costs"]
    assert costs["llama"]["longest_state_bytes"] > costs["llama"]["state_bytes"]
    assert f"{costs['llama']['longest_state_bytes'] / 1000:,.1f}" in llama


def test_processes_give_the_same(tmp_path, pytestconfig):
    words = ["nearest", "--preset", "smoke", "--models", "lstm,lstm-peephole"]
    results = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        assert evaluate(*words, "--processes", processes, "--out", folder) == 0
        found = json.loads((folder / "results.json").read_text())["problems"]["T8"]
        results.append({model: entry["buckets"] for model, entry in found.items()})
    if pytestconfig.getoption("--instruction-set") is None:
        assert results[0] == results[1]
    else:  # a process does not inherit the choice, and other instructions round otherwise
        here, there = ([result[model][0]["loss"]["mean"] for model in result] for result in results)
        assert there == pytest.approx(here, rel=1e-5)


def test_no_more_processes_than_memory_has_room_for(tmp_path, monkeypatch, capsys):
    asked = []
    results = cache.results

    def recorded(*args, processes, **options):
        asked.append(processes)
        return results(*args, processes=1, **options)

    monkeypatch.setattr(cache, "results", recorded)
    monkeypatch.setattr(suite, "MEMORY", tmp_path / "meminfo")
    words = ["nearest", "--preset", "smoke", "--models", "lstm", "--processes", 9, "--out", tmp_path]
    for free in (0, 5):
        kilobytes = free * suite.PROCESS // 1024
        suite.MEMORY.write_text(f"MemTotal: 99999999 kB\nMemFree: 0 kB\nMemAvailable: {kilobytes} kB\n")
        assert evaluate(*words) == 0
        room = max(1, free)
        said = capsys.readouterr().err.splitlines()
        assert said[0] == f"{room} of 9 processes: there is memory for {room} runs at a time."
    suite.MEMORY.unlink()  # as where there is none
    assert evaluate(*words) == 0
    assert asked == [1, 1, 5, 5, 9, 9]


def test_a_run_folder_with_a_suites_name(capsys):
    assert evaluate("./formal") == 2
    assert "there is no run or model './formal'" in capsys.readouterr().err


def test_a_run_that_diverged_has_a_place(tmp_path, capsys, monkeypatch):
    def run(configuration, make):
        return {"parameters": 1, "width": 1, "seconds": 0.0, "training": [], "diverged": True}

    monkeypatch.setattr(trial, "run", run)
    for name in ("recall", "nearest", "formal"):
        assert evaluate(name, "--preset", "smoke", "--models", "lstm", "--out", tmp_path / name) == 0
        assert "diverged" in capsys.readouterr().out


def test_a_mean_says_of_how_many_seeds(tmp_path, capsys, monkeypatch):
    def run(configuration, make):
        result = {"parameters": 1, "width": 1, "seconds": 0.0, "training": []}
        if configuration["seed"]:
            return result | {"diverged": True}
        return result | {"validation": {"loss": 1.0}, "buckets": [{"last": 0.5, "steps": [0.5]}]}

    monkeypatch.setattr(trial, "run", run)
    assert evaluate("nearest", "--preset", "smoke", "--models", "lstm", "--seeds", 3, "--out", tmp_path) == 0
    assert "(0.01, 1 of 3 seeds)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["formal", "--models", "lstn"], "unknown model 'lstn'. Did you mean 'lstm'?"),
        (["formal", "--problems", "partiy"], "unknown problem 'partiy'. Did you mean 'parity'?"),
        (["formal", "--rates", "fast"], "'fast' is no learning rate"),
        (["formal", "--rates", "inf"], "'inf' is no learning rate"),
        (["timing", "--models", "xlstm[1:1]"], "'xlstm[1:1]' has 2 kinds of blocks, but the models of this problem"),
        (["formal", "--seeds", "0"], "--seeds is 0; it should be at least 1"),
        (["formal", "--processes", "0"], "--processes is 0"),
        (["formal", "--curriculum", "1.5"], "--curriculum is 1.5"),
        (["formal", "--models", ","], "',' names nothing"),
    ],
)
def test_mistakes(words, sentence, tmp_path, capsys):
    assert evaluate(*words, "--preset", "smoke", "--out", tmp_path) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
