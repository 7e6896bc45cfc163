"""`exgate evaluate m4` on small files: the measures by hand, the table, and files that do not fit."""

import json

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("utilsforecast")

from exgate.cli import m4, main  # noqa: E402

SEASON = 4


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    rows = {
        name: level + 5 * np.tile([1.0, 2.0, 4.0, 3.0], length // 4 + 1)[:length] + rng.normal(size=length)
        for name, level, length in (("H1", 20.0, 104), ("H2", 200.0, 124))
    }
    paths = tmp_path / "train.csv", tmp_path / "test.csv"
    for path, part in zip(paths, (slice(None, -4), slice(-4, None)), strict=True):
        widest = max(len(values[part]) for values in rows.values())
        lines = ["V1," + ",".join(f"V{place + 2}" for place in range(widest))]
        for name, values in rows.items():
            cells = [f"{value:.3f}" for value in values[part]]
            lines.append(",".join([f'"{name}"', *cells, *[""] * (widest - len(cells))]))
        path.write_text("\n".join(lines) + "\n")
    return paths


def test_the_table(files, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--season", str(SEASON), "--input-size", "16", "--steps", "3", "--seeds", "2", "--out", str(out)]
    models = ["patch_xlstm", "ridge", "last season"]
    assert main(["evaluate", "m4", *map(str, files), "--models", ",".join(models), *words]) == 0
    found = json.loads((out / "results.json").read_text())
    assert list(found["models"]) == models
    assert found["models"]["patch_xlstm"]["seeds"] == 2
    assert found["models"]["ridge"]["seeds"] == 1
    before, after = m4.read(*files)
    errors = {name: np.abs(after[name] - before[name][-SEASON:]) for name in before}
    sizes = {name: np.abs(after[name]) + np.abs(before[name][-SEASON:]) for name in before}
    smape = np.mean([200 * (errors[name] / sizes[name]).mean() for name in before])
    scales = {name: np.abs(values[SEASON:] - values[:-SEASON]).mean() for name, values in before.items()}
    mase = np.mean([errors[name].mean() / scales[name] for name in before])
    assert found["models"]["last season"]["sMAPE"]["mean"] == pytest.approx(smape, rel=1e-4)
    assert found["models"]["last season"]["MASE"]["mean"] == pytest.approx(mase, rel=1e-4)
    assert 0 <= found["models"]["ridge"]["coverage"]["80"]["mean"] <= 1
    assert "inside of 95 %" in (out / "table.md").read_text()
    assert (out / "picture.png").stat().st_size > 5_000
    assert "Naive2" in capsys.readouterr().out


def answer(points, begin):
    return pd.DataFrame({"unique_id": "a", "ds": begin + 1 + np.arange(len(points)), "model": points})


def test_measures_by_hand():
    before, after = {"a": np.array([1.0, 2.0, 4.0, 7.0])}, {"a": np.array([3.0, 6.0])}
    found = m4.measures(answer([5.0, 6.0], 4), before, after, 1)
    assert found == {"smape": pytest.approx(200 * 2 / 8 / 2), "mase": pytest.approx(1 / 2), "coverage": {}}
    wide = answer([5.0, 6.0], 4).assign(**{"model-lo-80": [4.0, 5.0], "model-hi-80": [6.0, 7.0]})
    assert m4.measures(wide, before, after, 1)["coverage"] == {"80": 0.5}


def test_naive2_divides_out_what_repeats():
    wave = np.tile([1.0, 2.0, 3.0, 2.0], 20) * np.linspace(1, 2, 80)
    before, after = {"a": wave[:70]}, {"a": np.array([3.0, 2.0, 1.0, 2.0]) * 70 / 79 + 0.0}
    seasonal = m4.naive2(before, {"a": np.tile([3.0, 2.0, 1.0, 2.0], 1) * (1 + 69 / 79)}, 4)
    assert seasonal["smape"] < 2.0
    noise = {"a": 5 + np.random.default_rng(1).normal(size=70)}
    plain = m4.measures(answer([noise["a"][-1]] * 4, 70), noise, after, 4)
    assert m4.naive2(noise, after, 4) == plain


def test_files_that_do_not_fit_are_named(files, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("V1,V2\nH1,3\nH9,4\n")
    with pytest.raises(ValueError, match="H2 is in one alone"):
        m4.read(files[0], other)
    other.write_text("V1,V2,V3\nH1,3\nH2,4,5\n")
    with pytest.raises(ValueError, match="different numbers of steps"):
        m4.read(files[0], other)
    other.write_text("V1,V2\nH1,3\nH1,4\n")
    with pytest.raises(ValueError, match="line 3: H1 is there twice"):
        m4.read(files[0], other)
    with pytest.raises(ValueError, match="a is no longer than a season of 4 steps"):
        m4.measures(answer([1.0, 1.0], 4), {"a": np.ones(4)}, {"a": np.ones(2)}, 4)
    other.write_text("V1,V2,V3\nH1,,3\nH2,4,5\n")
    with pytest.raises(ValueError, match=r"line 2: could not convert .* Behind the name there are numbers"):
        m4.read(files[0], other)


def test_naive2_has_the_figures_of_the_competition(real):
    """sMAPE 18.383 and MASE 2.395 on the hourly series; the last season 13.912 and 1.193 (Makridakis et al. 2020)."""
    before, after = m4.read(real("m4-hourly-train.csv.gz"), real("m4-hourly-test.csv.gz"))
    found = m4.naive2(before, after, 24)
    assert (round(found["smape"], 3), round(found["mase"], 3)) == (18.383, 2.395)
    last = [answer(np.tile(values[-24:], 2), len(values)).assign(unique_id=name) for name, values in before.items()]
    found = m4.measures(pd.concat(last), before, after, 24)
    assert (round(found["smape"], 3), round(found["mase"], 3)) == (13.912, 1.193)
