"""Files of long series: what is read, how it is split, which windows there are, what is refused."""

import gzip

import numpy as np
import pytest

from exgate.data import series


@pytest.fixture
def file(tmp_path):
    """100 hours of two series, with a date in front and one value missing."""
    path = tmp_path / "weather.csv.gz"
    lines = [f"2020-01-01 {hour},{hour},{'' if hour == 5 else 3 * hour}" for hour in range(100)]
    with gzip.open(path, "wt") as stream:
        stream.write("date,a,b\n" + "\n".join(lines) + "\n")
    return path


def test_all_windows_of_a_part_and_none_that_is_scored_twice(file):
    record = series.read(file)
    assert (record.name, record.series) == ("weather", ("a", "b"))
    assert record.parts == {"train": (0, 70), "validation": (70, 80), "test": (80, 100)}
    raw = record.values[:, 0] * record.deviation[0] + record.mean[0]
    np.testing.assert_allclose(raw, np.arange(100), atol=1e-9)
    assert np.isnan(record.values).sum() == 1
    assert np.isnan(record.values[5, 1])
    np.testing.assert_allclose([record.values[:70, 0].mean(), record.values[:70, 0].std()], [0, 1], atol=1e-12)
    for part, first, count in (("train", 0, 70 - 12 + 1), ("validation", 60, 10 - 2 + 1), ("test", 70, 20 - 2 + 1)):
        read, ahead = record.windows(part, 10, 2)
        assert read.shape == (count, 10, 2)
        assert ahead.shape == (count, 2, 2)
        begin = read[:, 0, 0] * record.deviation[0] + record.mean[0]
        np.testing.assert_allclose(begin, first + np.arange(count), atol=1e-9)
        np.testing.assert_allclose(ahead[:, 0, 0] - read[:, -1, 0], 1 / record.deviation[0], atol=1e-9)
    with pytest.raises(ValueError, match="validation part has 20 steps, too few for windows of 10"):
        record.windows("validation", 10, 11)


def test_the_splits_of_the_literature():
    assert series.splits("ETTh1", 17_420)["test"] == (11_520, 14_400)
    assert series.splits("ETTm2", 69_680)["validation"] == (34_560, 46_080)
    assert series.splits("PEMS04", 1000) == {"train": (0, 600), "validation": (600, 800), "test": (800, 1000)}
    assert series.splits("exchange_rate", 7588) == {
        "train": (0, 5311),
        "validation": (5311, 6071),
        "test": (6071, 7588),
    }
    with pytest.raises(ValueError, match="ETTm1 has 17420 rows; its splits need 57600"):
        series.splits("ETTm1", 17_420)


def test_files_without_a_head_and_pems(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3))
    np.savetxt(tmp_path / "solar.txt", values, delimiter=",")
    np.savez(tmp_path / "PEMS04.npz", data=np.stack([values, values + 1], 2))
    for name in ("solar.txt", "PEMS04.npz"):
        record = series.read(tmp_path / name)
        np.testing.assert_allclose(record.values * record.deviation + record.mean, values)
        assert record.series == ("0", "1", "2")


def test_a_constant_series_is_not_divided_by_zero(tmp_path):
    np.savetxt(tmp_path / "c.txt", np.full((50, 1), 7.0), delimiter=",")
    assert not series.read(tmp_path / "c.txt").values.any()


def test_what_is_wrong_is_said(tmp_path):
    for name, text, words in (
        ("a.csv", "date,x\n1,2\n2,up\n", "line 3: could not convert string to float: 'up'"),
        ("a.csv", "date,x\n1,2\n2,3,4\n", "line 3 has 3 columns"),
        ("a.csv", "date,x\n", "has no numbers"),
        ("a.parquet", "", "is a .parquet file; it should be"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=words):
            series.read(tmp_path / name)
    np.savez(tmp_path / "x.npz", flow=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="has no array 'data', but flow"):
        series.read(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="there is no file"):
        series.read(tmp_path / "none.csv")
