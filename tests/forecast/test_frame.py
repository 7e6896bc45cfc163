"""Frames as series on a grid: orders, gaps, frequencies, time zones, both libraries, and each kind of bad input."""

import numpy as np
import pytest

from exgate.forecast.frame import Columns, ahead, as_pandas, is_polars, like, panel

pd = pytest.importorskip("pandas")

NAMES = Columns()


def frame(**changed):
    """Two series, six and four days, the second one first and in disorder."""
    days = [pd.Timestamp(2024, 1, day) for day in (4, 2, 3, 1)] + [pd.Timestamp(2024, 3, day) for day in range(1, 7)]
    values = [4.0, 2.0, 3.0, 1.0, *np.arange(10.0, 16.0)]
    columns = {"unique_id": ["b"] * 4 + ["a"] * 6, "ds": days, "y": values}
    return pd.DataFrame(columns | changed)


def test_series_are_sorted_and_keep_their_lengths():
    made = panel(frame(), NAMES)
    assert made.ids == ["a", "b"]
    assert [list(values) for values in made.values] == [[10, 11, 12, 13, 14, 15], [1, 2, 3, 4]]
    assert made.freq == pd.offsets.Day()
    assert made.notes == []
    assert ahead(made.times[1], made.freq, 2).tolist() == [pd.Timestamp("2024-01-05"), pd.Timestamp("2024-01-06")]


def test_gaps_are_filled_with_nothing_and_counted():
    df = frame().drop(index=[1, 6])
    df.loc[5, "y"] = np.nan
    made = panel(df, NAMES, freq="D")
    np.testing.assert_array_equal(made.values[0], [10, np.nan, np.nan, 13, 14, 15])
    np.testing.assert_array_equal(made.values[1], [1, np.nan, 3, 4])
    assert made.notes == ["2 missing times were added without a value", "1 values are missing"]


@pytest.mark.parametrize("freq", ["h", "15min", "D", "W-TUE", "MS", "ME", "QS-OCT", "YE-DEC", "B", "s"])
@pytest.mark.parametrize("gaps", [False, True])
def test_frequencies_are_found_and_go_on(freq, gaps):
    times = pd.date_range("2021-01-01", periods=60, freq=freq)
    df = pd.DataFrame({"ds": times, "y": np.arange(60.0)})
    made = panel(df.drop(index=[40, 41, 50]) if gaps else df, NAMES)
    assert made.ids == ["series"], "without names it is one series"
    assert made.times[0].equals(times)
    assert ahead(made.times[0], made.freq, 3).equals(pd.date_range("2021-01-01", periods=63, freq=freq)[60:])


def test_numbers_as_times():
    made = panel(pd.DataFrame({"ds": [10, 12, 16], "y": [1, 2, 3]}), NAMES)
    assert made.freq == 2
    np.testing.assert_array_equal(made.values[0], [1, 2, np.nan, 3])
    assert ahead(made.times[0], 2, 2).tolist() == [18, 20]


def test_text_is_read_as_times_and_zones_stay():
    df = pd.DataFrame({"ds": ["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00"], "y": [1, 2, 3]})
    assert panel(df, NAMES).times[0][0] == pd.Timestamp("2024-01-01")
    hours = pd.date_range("2024-03-30 22:00", periods=12, freq="h", tz="Europe/Vienna")  # across a change of the clock
    made = panel(pd.DataFrame({"ds": hours, "y": range(12)}), NAMES)
    assert made.times[0].equals(hours)
    assert str(ahead(made.times[0], made.freq, 1)[0]) == "2024-03-31 11:00:00+02:00"


def test_numbers_that_are_dates_are_read_as_such():
    days = pd.date_range("2024-01-01", periods=80)
    made = panel(pd.DataFrame({"ds": days.strftime("%Y%m%d").astype(int), "y": range(80)}), NAMES)
    assert made.times[0].equals(days)
    assert panel(pd.DataFrame({"ds": np.arange(10**7, 10**7 + 50, 10), "y": range(5)}), NAMES).freq == 10
    assert panel(pd.DataFrame({"ds": np.arange(120, 127, dtype=np.int8), "y": range(7)}), NAMES).freq == 1


def test_the_frequency_is_that_of_most_of_a_series():
    times = pd.date_range("2023-01-01", periods=30).append(pd.date_range("2023-02-01", periods=2000, freq="h"))
    made = panel(pd.DataFrame({"ds": times, "y": range(2030)}), NAMES)
    assert made.freq == pd.offsets.Hour()
    assert made.notes[0] == "714 missing times were added without a value"
    ends = pd.date_range("2023-01-31", periods=18, freq="ME").delete([7, 12])
    assert panel(pd.DataFrame({"ds": ends, "y": range(16)}), NAMES).freq == pd.offsets.MonthEnd()
    sparse = panel(pd.DataFrame({"ds": [0, 1, 2, 90], "y": range(4)}), NAMES)
    assert sparse.notes[0].endswith("more than there are: is the frequency right?")


def test_covariates_and_other_names():
    df = frame(promo=[True] * 10, weather=np.arange(10)).rename(
        columns={"y": "sales", "ds": "day", "unique_id": "shop"}
    )
    made = panel(df, Columns(unique_id="shop", ds="day", y="sales", hist=("weather",), futr=("promo",)))
    assert made.hist[1][:, 0].tolist() == [3.0, 1.0, 2.0, 0.0]
    assert made.futr[0].tolist() == [[1.0]] * 6
    assert panel(frame(), NAMES).hist[0].shape == (6, 0)


def test_polars_comes_back_as_polars():
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    given = polars.from_pandas(frame())
    assert panel(as_pandas(given), NAMES).ids == ["a", "b"]
    assert is_polars(like(as_pandas(given), is_polars(given)))
    assert like(frame(), is_polars(frame())).equals(frame())
    with pytest.raises(ValueError, match="the data are a list"):
        as_pandas([1])


def zones():
    return [pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-02", tz="Asia/Tokyo")] * 5


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: frame().drop(columns="y"), r"no column 'y'; the columns are unique_id, ds\."),
        (lambda: frame().iloc[:0], "has no rows"),
        (lambda: pd.concat([frame(), frame().iloc[:2]]), r"2 rows have the series and time .*drop_duplicates"),
        (lambda: frame(y=["1"] * 9 + ["n/a"]), "'y' has type .*, not numbers, as 'n/a' in row 9"),
        (lambda: frame(y=[np.inf] * 2 + [1.0] * 8), "2 values of 'y' are infinite, the first of series 'b' at 2024"),
        (lambda: frame(y=[np.nan] * 4 + [1.0] * 6), r"'b' has no value in 'y'\. Leave these series out"),
        (lambda: frame(ds=zones()), r"several time zones: pandas.to_datetime\(\.\.\., utc=True\)"),
        (lambda: frame(ds=["yesterday"] * 10), "could not be read as times"),
        (lambda: frame(ds=np.arange(10) + 0.5), "numbers that are not whole"),
        (lambda: frame(ds=[None] * 10), "'ds' is missing in 10 rows"),
        (lambda: frame(unique_id=[None] + ["a"] * 9), "'unique_id' is missing in 1 rows"),
        (lambda: frame().iloc[:2], "has 2 rows, too few to tell its frequency"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Could not infer format")
def test_bad_input_is_said(bad, words):
    with pytest.raises(ValueError, match=words):
        panel(bad(), NAMES)


def test_a_wrong_frequency_is_said():
    for freq, words in (
        ("2D", r"2 of 4 times of series 'b' are not on the grid of freq='2D' that begins at 2024-01-01"),
        (1, "'ds' are times, but freq is 1; it should be a pandas offset"),
        ("daily", "freq is 'daily', which pandas does not know"),
    ):
        with pytest.raises(ValueError, match=words):
            panel(frame().iloc[:4], NAMES, freq=freq)


def test_a_constant_series_is_told_of():
    assert panel(frame(y=[1.0] * 4 + [2.0] * 5 + [3.0]), NAMES).notes == ["1 series are constant: 'b'"]
