"""`exgate evaluate forecast` on a small file: the choice on validation, the table, the figures, going on."""

import json

import numpy as np
import pytest
import torch

from exgate.cli import main
from exgate.data import series
from exgate.forecast import longterm

SHORT = ["--horizons", "8,16", "--steps", "4", "--seeds", "2"]


@pytest.fixture
def file(tmp_path):
    time = np.arange(1500)
    rows = [np.sin(2 * np.pi * time / 24) + 0.1 * np.random.default_rng(0).normal(size=1500), np.cos(time / 5)]
    lines = ["date,a,b", *(f"2024,{a:.4f},{b:.4f}" for a, b in zip(*rows, strict=True))]
    path = tmp_path / "waves.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_table(file, tmp_path, capsys):
    out = tmp_path / "out"
    models = ["patch_xlstm", "ridge", "last value"]
    command = ["evaluate", "forecast", str(file), "--out", str(out), "--models", ",".join(models), *SHORT]
    assert main(command) == 0
    found = json.loads((out / "results.json").read_text())["files"]["waves"]
    assert list(found) == models
    assert all([line["horizon"] for line in of["test"]] == [8, 16] for of in found.values())
    ridge, naive = (found[name]["test"][0]["mse"]["mean"] for name in ("ridge", "last value"))
    assert ridge < 0.1 < naive
    assert found["patch_xlstm"]["chosen"] in longterm.CONTENDERS["patch_xlstm"].choices
    assert "waves" in capsys.readouterr().out
    assert (out / "picture.png").stat().st_size > 10_000
    assert (out / "table.md").read_text().count("\n| ") == 1 + len(found)
    count = len((out / "runs.jsonl").read_text().splitlines())
    assert main(command) == 0
    assert len((out / "runs.jsonl").read_text().splitlines()) == count, "what was done is found again"


@pytest.mark.parametrize("name", longterm.CONTENDERS)
def test_every_contender_forecasts(name):
    for choice in longterm.CONTENDERS[name].choices:
        configuration = longterm.configure(name, choice, horizons=[8, 12], season=24, seed=0)
        model = longterm.build(configuration, 2)
        read = torch.randn(3, configuration["steps"], 2)
        assert longterm.forecast(model, read, 12, mixed=configuration["mixed"]).shape == (3, 12, 2)


def test_scores_are_those_of_all_windows(file):
    record = series.read(file)
    configuration = longterm.configure("last season", {}, horizons=[16, 8], season=24, seed=0)
    result = longterm.run(configuration, record)
    for line in result["test"]:
        read, follow = record.windows("test", 336, line["horizon"])
        error = follow - read[:, -24:][:, : line["horizon"]]
        assert line["mse"] == pytest.approx(np.square(error).mean(), rel=1e-6)
        assert line["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)


def test_nothing_of_the_test_part_is_learnt(file):
    record = series.read(file)
    configuration = longterm.configure("ridge", {}, horizons=[8], season=1, seed=0)
    before = longterm.run(configuration, record)["validation"]
    record.values[record.parts["test"][0] :] = 1e3
    assert longterm.run(configuration, record)["validation"] == before


def test_what_is_wrong_is_said(file, capsys):
    assert main(["evaluate", "forecast", str(file), "--models", "patch_xlstn"]) != 0
    assert "unknown model 'patch_xlstn'. Did you mean 'patch_xlstm'" in capsys.readouterr().err
    for words, said in ((["--seeds", "0"], "--seeds is 0"), (["--horizons", "8,abc"], "it should be whole numbers")):
        assert main(["evaluate", "forecast", str(file), *words]) != 0
        assert said in capsys.readouterr().err
    assert main(["evaluate", "forecast"]) != 0
    assert "give files" in capsys.readouterr().err
