"""`exgate forecast`: columns and frequencies that are guessed, the table, the files, and mistakes in words."""

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("utilsforecast")

from exgate.cli import main  # noqa: E402
from exgate.cli.forecast import read, seasonal  # noqa: E402
from exgate.forecast import Forecaster  # noqa: E402

QUICK = ["--steps", "5", "--input-size", "16"]


def table(steps=120, freq="D"):
    time = np.arange(steps)
    return pd.DataFrame({"day": pd.date_range("2024-01-01", periods=steps, freq=freq), "sold": time % 7 + 0.1 * time})


def forecast(path, out, *words):
    return main(["forecast", str(path), "--out", str(out), *QUICK, *map(str, words)])


def test_a_csv_becomes_a_table_a_file_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    table().to_csv(tmp_path / "sales.csv", index=False)
    assert forecast(tmp_path / "sales.csv", tmp_path / "out", "--horizon", 7, "--level", 80, "--test-windows", 2) == 0
    shown = capsys.readouterr().out
    assert "times: 'day', forecast: 'sold'. 1 series of 120 steps, every D." in shown
    for words in ("last season", "linear", "PatchXLSTM", "MAE", "MASE", "held by the 80 % interval", "forecast.png"):
        assert words in shown
    answer = pd.read_csv(tmp_path / "out" / "forecast.csv")
    assert list(answer) == ["unique_id", "ds", "PatchXLSTM", "PatchXLSTM-lo-80", "PatchXLSTM-hi-80"]
    assert answer.ds.tolist()[0] == "2024-04-30"
    assert len(answer) == 7
    assert (tmp_path / "out" / "forecast.png").stat().st_size > 5000
    again = Forecaster.load(tmp_path / "out" / "forecaster").predict(level=[80])
    assert again.PatchXLSTM.to_numpy() == pytest.approx(answer.PatchXLSTM.to_numpy(), rel=1e-6)


def test_columns_are_guessed_in_long_and_in_wide_tables(tmp_path, capsys):
    long = pd.concat(table(60).assign(shop=name, price=1.0) for name in ("x", "y"))
    long.to_parquet(tmp_path / "long.parquet")
    wide = table(60).assign(bought=3.0 * np.arange(60))
    wide.to_csv(tmp_path / "wide.csv.gz", index=False)
    cases = [
        (
            "long.parquet",
            ["--target", "sold"],
            "times: 'day', series: 'shop', forecast: 'sold'",
            "2 series of 60",
            ["x", "y"],
        ),
        ("wide.csv.gz", [], "forecast: 'bought' (of 2 columns of numbers", "1 series of 60", ["bought"]),
        ("wide.csv.gz", ["--target", "all"], "series: 'sold', 'bought'", "2 series of 60", ["bought", "sold"]),
    ]
    for file, words, said, counted, ids in cases:
        assert forecast(tmp_path / file, tmp_path, "--horizon", 3, "--test-windows", 0, *words) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert said in shown
        assert counted in shown
        assert pd.read_csv(tmp_path / "forecast.csv").unique_id.drop_duplicates().tolist() == ids


def test_tables_that_once_failed(tmp_path, capsys):
    """A column that is called y, numbers that name series, dates as numbers, series of which one begins late."""
    both = pd.concat([table(90).assign(store=1), table(90).tail(40).assign(store=2)]).assign(y=0.0, x=1.0)
    both["day"] = both["day"].dt.strftime("%Y%m%d").astype(int)
    both.to_csv(tmp_path / "t.csv", index=False)
    assert forecast(tmp_path / "t.csv", tmp_path, "--horizon", 3, "--target", "sold", "--test-windows", 1) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "times: 'day', series: 'store', forecast: 'sold'" in shown
    assert "2 series of 40 to 90 steps, every D." in shown
    assert "nan" not in shown
    assert forecast(tmp_path / "t.csv", tmp_path, "--horizon", 3, "--target", "all", "--test-windows", 0) == 0
    capsys.readouterr()
    months = pd.DataFrame({"day": [f"01/{month:02d}/2016" for month in range(1, 13)], "sold": range(12)})
    months.to_csv(tmp_path / "d.csv", index=False)
    assert forecast(tmp_path / "d.csv", tmp_path, "--horizon", 3, "--freq", "MS") == 2
    assert "not on the grid of freq='MS'" in capsys.readouterr().err


def test_without_a_file_there_is_an_example(tmp_path, capsys):
    pytest.importorskip("statsmodels")
    arguments = ["forecast", "--out", str(tmp_path), "--horizon", "4", "--test-windows", "0", *QUICK]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "the weekly CO2 of Mauna Loa" in shown
    assert "59 values are missing" in shown
    assert len(pd.read_csv(tmp_path / "forecast.csv")) == 4


def test_a_horizon_of_nothing_is_refused_without_a_file_too(tmp_path, capsys):
    assert main(["forecast", "--horizon", "0", "--out", str(tmp_path)]) == 2
    assert "--horizon is 0" in capsys.readouterr().err


def test_seasons():
    offsets = {"h": 24, "15min": 96, "D": 7, "W-SUN": 52, "MS": 12, "QE-DEC": 4, "YE-DEC": 1, "B": 5, "2h": 12}
    for name, season in offsets.items():
        assert seasonal(pd.tseries.frequencies.to_offset(name)) == season
    assert seasonal(1) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time", "when"], "there is no column 'when' for --time; the columns are 'day', 'sold'"),
        (["--target", "day2"], "there is no column 'day2' for --target"),
        (["--horizon", "0"], "--horizon is 0"),
        (["--horizon", "500"], "leave nothing of series 'sold', which has 120"),
        (["--season", "0"], "--season is 0; it should be at least 1"),
        (["--input-size", "0"], "--input-size is 0"),
        (["--target", "day"], "--target is 'day', which has no numbers or is taken for times or names"),
        (["--freq", "2D"], "60 of 120 times of series 'sold' are not on the grid of freq='2D'"),
    ],
)
def test_mistakes_are_said_in_a_sentence(tmp_path, capsys, words, said):
    table().to_csv(tmp_path / "sales.csv", index=False)
    assert forecast(tmp_path / "sales.csv", tmp_path, *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "forecast.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--test-windows", "-1"], "--test-windows is -1; it should be at least 0"),
        (["--level", "100"], "--level is 100; it should be between 0 and 100"),
        (["--model", "xlsm"], "unknown model 'xlsm'"),
        (["--steps", "-5"], "--steps is -5"),
    ],
)
def test_arguments_are_checked_before_the_file_is_read(tmp_path, capsys, words, said):
    assert forecast(tmp_path / "none.csv", tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to_is_found_before_training(tmp_path, capsys, monkeypatch):
    table().to_csv(tmp_path / "sales.csv", index=False)
    monkeypatch.setattr(Forecaster, "fit", lambda *_, **__: pytest.fail("it learns"))
    for out in (tmp_path / "sales.csv", tmp_path / "sales.csv" / "deeper"):
        assert forecast(tmp_path / "sales.csv", out, "--horizon", 7) == 2
        assert f"nothing can be written to --out {out}" in " ".join(capsys.readouterr().err.split())


def test_levels_may_have_decimals_and_lie_far_out(tmp_path, capsys):
    table().to_csv(tmp_path / "sales.csv", index=False)
    words = ["--horizon", 7, "--test-windows", 1, "--level", "99.5", "--level", "92.5"]
    assert forecast(tmp_path / "sales.csv", tmp_path, *words) == 0
    shown = capsys.readouterr().out
    assert "held by the 99.5 % interval" in shown
    assert "sMAPE, 0 to 1" in shown
    answer = pd.read_csv(tmp_path / "forecast.csv")
    assert (answer["PatchXLSTM-lo-99.5"] <= answer["PatchXLSTM-lo-92.5"]).all()


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_columns_are_told_apart_by_what_separates_them(tmp_path, separator):
    table().to_csv(tmp_path / "sales.csv", index=False, sep=separator)
    assert list(read(tmp_path / "sales.csv")) == ["day", "sold"]


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("sales\n1\n2\n", [], "no column could be read as times; the columns are 'sales'. Name it: --time COLUMN."),
        ("t,y\n1,1\n2,2\n", [], "Whole numbers that count steps are times only where they are named so"),
        ("day,sales\n2024-01-01,1\n2024-01-02,n.v.\n", ["--target", "sales"],
         "'sales' should have numbers alone, but it has 'n.v.' in row 2 below the head. Mend it"),
        ("day,y,other\n2024-01-01,1,1\n2024-01-02,?,1\n", [], "'y' should have numbers alone, but it has '?' in row 2"),
        ("day;sales\n2024-01-01;1,5\n2024-01-02;2,5\n", [], "'1,5' in row 1 below the head. Write decimal points"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_csv_is_shown(tmp_path, capsys, text, words, said):
    (tmp_path / "a.csv").write_text(text)
    assert forecast(tmp_path / "a.csv", tmp_path, *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "a.xlsx").write_text("")
    (tmp_path / "a.csv").write_text("name,colour\na,red\nb,blue\n")
    (tmp_path / "b.csv").write_text("day,colour\n2024-01-01,red\n2024-01-02,blue\n")
    for file, said in (
        ("none.csv", "there is no file"),
        ("a.xlsx", "is of no known kind"),
        ("a.csv", "no column could be read as times"),
        ("b.csv", "no column but 'day' has numbers"),
    ):
        assert forecast(tmp_path / file, tmp_path) == 2
        assert said in capsys.readouterr().err
