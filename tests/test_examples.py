"""Every program in examples/ runs, with few steps, and says what it promises to."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from exgate.data import parallel

FOLDER = Path(__file__).resolve().parent.parent / "examples"
# The arguments that make each short, and a pattern of what it prints.
PROGRAMS = {
    "parity.py": (["--steps", "3"], r"50 to 100 bits: \d"),
    "stream.py": ([], r"largest difference is \d\.\de-0[5-9]"),
    "language_model.py": (["--steps", "20"], r"step 20: [2-6]\.\d\d bits per byte\nThe "),
    "translate.py": (["--demo", "--pairs", "96", "--epochs", "1", "--beam", "2"], r"\d+ of \d+ test sentences"),
    "phonemes.py": (["--utterances", "10", "--epochs", "1", "--hidden", "8"], r"both: \d+\.\d% of frames"),
    "export.py": ([], r"20 of 20 tokens are those that `generate` gives"),
    "weights.py": ([], r"xlstm_7b, [\d,]+ parameters"),
}


def test_every_example_is_tested():
    assert {path.name for path in FOLDER.glob("*.py")} == {*PROGRAMS, "traffic.py", "traffic_show.py"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_example(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments, pattern = PROGRAMS[name]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    assert re.search(pattern, capsys.readouterr().out)
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
    assert name in (FOLDER / name).read_text().split('"""')[1], "the docstring says how to run it"


def test_a_translation_is_known_by_its_text(monkeypatch, capsys, tmp_path):
    for name, count in {"train": 64, "val": 8, "test_a": 4, "test_b": 4}.items():
        for side, words in zip(("de", "en"), zip(*parallel.number_pairs(count), strict=True), strict=True):
            (tmp_path / f"{name}.{side}").write_text("\n".join(words))

    def run(*more: str) -> str:
        words = ["--vocab", "300", "--dim", "8", "--hidden", "8", "--epochs", "1", "--beam", "1", *more]
        monkeypatch.setattr(sys, "argv", ["translate.py", str(tmp_path), *words, "--save", str(tmp_path / "model")])
        runpy.run_path(str(FOLDER / "translate.py"), run_name="__main__")
        return capsys.readouterr().out

    with pytest.raises(SystemExit, match=r"translate: .*several files .* Give a whole name"):
        run()
    assert "of 4 test sentences" in run("--test", "test_a")
    assert "going on after epoch 1" in run("--test", "test_b"), "the weights do not depend on the test set"
    (tmp_path / "val.de").write_text("one\n" * 8)
    with pytest.raises(SystemExit, match="holds a run with other options or another text"):
        run("--test", "test_a")


def test_translation_goes_on_where_it_was_stopped(monkeypatch, capsys, tmp_path):
    words = ["--demo", "--pairs", "96", "--epochs", "2", "--beam", "1", "--save"]

    def told(folder: str, epochs: int | None = None) -> list[str]:
        program = runpy.run_path(str(FOLDER / "translate.py"))
        if epochs is not None:  # stopped after so many
            save = program["checkpoint"].save

            def once(*args, **kwargs):
                save(*args, **kwargs)
                if args[1] == epochs:
                    raise KeyboardInterrupt

            monkeypatch.setattr(program["checkpoint"], "save", once)
        monkeypatch.setattr(sys, "argv", ["translate.py", *words, str(tmp_path / folder)])
        try:
            program["main"]()
        except KeyboardInterrupt:
            monkeypatch.undo()
        return [re.sub(r", [\d.]+ min", "", line) for line in capsys.readouterr().out.splitlines()]

    whole = told("whole")
    stopped = told("cut", epochs=1)
    rest = told("cut")
    assert stopped == whole[: len(stopped)]
    assert rest[1] == "going on after epoch 1"
    assert rest[2:] == whole[len(stopped) :]
    monkeypatch.setattr(sys, "argv", ["translate.py", *words[:-1], "--lr", "1", "--save", str(tmp_path / "whole")])
    with pytest.raises(SystemExit, match="holds a run with other options"):
        runpy.run_path(str(FOLDER / "translate.py"), run_name="__main__")


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs examples/traffic.py in an empty folder, and returns what it printed."""
    for package in ("pandas", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["traffic.py", *words, "--seeds", "1", "--steps", "2", "--out", "out"])
        runpy.run_path(str(FOLDER / "traffic.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def speeds(days: int, sensors: int) -> np.ndarray:
    """Every five minutes, with a rush hour, and noise; sensors differ in their level."""
    time = np.arange(288 * days)
    rush = 25 * np.exp(-((time % 288 - 100) ** 2) / 200)
    noise = np.random.default_rng(0).normal(size=(len(time), sensors))
    return 60 + np.arange(sensors) - rush[:, None] + noise


def test_speeds_of_sensors_are_forecast(traffic, tmp_path):
    values = speeds(6, 4)
    values[-5, 0] = 0  # left out of MAPE
    np.savetxt("speeds.csv", values, "%.3f", ",", header="a,b,c,d", comments="")
    graph = np.eye(4)
    graph[0, 1] = graph[1, 0] = 0.5
    np.savetxt("graph.csv", graph, delimiter=",")
    said = traffic("sensors", "speeds.csv", "graph.csv")
    assert "4 sensors, 1,209 steps" in said
    assert "335 moments" in said
    found = json.loads((tmp_path / "out" / "sensors.json").read_text())
    assert set(found["scores"]) == {"last value", "shared AR(12)", "time-of-day mean", "usual speed", "exgate"}
    moments = np.arange(int(0.8 * len(values)), len(values) - 11)
    last = np.abs(values.round(3)[moments + 2] - values.round(3)[moments - 1]).mean()  # three steps ahead
    assert found["scores"]["last value"][0]["mae"][2] == pytest.approx(last)
    assert all(0 < error < 50 for error in found["scores"]["exgate"][0]["mape"])
    assert (tmp_path / "out" / "sensors.png").stat().st_size > 10000

    np.savetxt("graph.csv", graph[:3], delimiter=",")
    with pytest.raises(SystemExit, match=r"traffic: graph.csv is a table of 3 x 4, and speeds.csv has 4 sensors"):
        traffic("sensors", "speeds.csv", "graph.csv")


def test_what_is_usual_leaves_the_day_itself_out(traffic):
    program = runpy.run_path(str(FOLDER / "traffic.py"))
    values = np.repeat(np.arange(8.0), 288)[:, None]  # the speed is the number of the day
    import pandas

    times = pandas.date_range("2012-03-01", periods=len(values), freq="5min")  # Thursday
    data = program["Sensors"](["a"], values, np.eye(1), int(0.7 * len(values)), int(0.8 * len(values)), times)
    usual = program["usual"](data)[::288]
    np.testing.assert_allclose(usual[[0, 1]].ravel(), [(1 + 4 + 5) / 3, (0 + 4 + 5) / 3], atol=0.5)
    np.testing.assert_allclose(usual[[2, 3]].ravel(), [3, 2])
    changed = values.copy()
    changed[data.learnt :] = 99
    again = program["usual"](program["Sensors"](["a"], changed, np.eye(1), data.learnt, data.held, times))
    np.testing.assert_array_equal(again[::288], usual)


def test_the_volume_of_a_road_is_forecast(traffic, tmp_path):
    import pandas

    times = pandas.date_range("2018-01-01", periods=24 * 60, freq="h")
    frame = pandas.DataFrame({
        "holiday": np.where(times == "2018-02-19", "Washingtons Birthday", "None"), "temp": 280.0, "rain_1h": 0.0,
        "snow_1h": 0.0, "clouds_all": 40, "weather_main": "Clouds", "weather_description": "clouds", "date_time": times,
        "traffic_volume": (3000 + 2000 * np.sin(2 * np.pi * times.hour / 24)).round().astype(int),
    })  # fmt: skip
    frame.loc[100, "temp"] = 0
    frame = frame.drop(index=range(500, 510))
    frame = pandas.concat([frame, frame.iloc[[7, 7, 9]]])
    frame.to_csv("road.csv.gz", index=False)
    said = traffic("road", "road.csv.gz", "--days", "12")
    assert "3 of 1,433 rows repeat an hour" in said
    assert "10 of 1,440 hours are not in the file" in said
    assert "1 temperatures of 0 K" in said
    assert "all hours of its day (1 days" in said
    found = json.loads((tmp_path / "out" / "road.json").read_text())["scores"]
    assert set(found) == {"a week ago", "ridge", "exgate, no covariates", "exgate"}
    assert found["a week ago"][0]["mae"] == pytest.approx(0, abs=1e-6)
    assert found["exgate"][0]["holidays"] > 0
    assert (tmp_path / "out" / "road.png").stat().st_size > 10000


@pytest.mark.parametrize(("command", "names"), [("sensors", ("SPEEDS", "GRAPH")), ("road", ("VOLUME",))])
def test_the_help_of_traffic_names_the_files(command: str, names: tuple[str, ...], monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["traffic.py", command, "--help"])
    monkeypatch.syspath_prepend(FOLDER)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / "traffic.py"), run_name="__main__")
    assert ended.value.code == 0
    words = capsys.readouterr().out
    assert all(name in words for name in names)
