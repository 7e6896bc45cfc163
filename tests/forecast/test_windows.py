"""Windows of series: what lies in them, where they may lie, what is beyond the ends."""

import numpy as np
import pytest
import torch

from exgate.forecast.windows import PLAIN, Series
from exgate.layers.series import filled

NAN = np.nan


@pytest.fixture
def series():
    values = [np.arange(10.0)[:, None], 100 + np.arange(4.0)[:, None]]
    future = [np.arange(0.0, 130.0, 10)[:, None], np.arange(0.0, 40.0, 10)[:, None]]
    return Series(
        values=values, past=values, future=future, static=np.array([[1.0], [2.0]]), categories=np.array([[0], [3]])
    )


def test_windows_and_what_is_beyond_the_ends(series):
    rows = series.rows(np.array([[0, 5], [0, 9], [1, 2]]), 3, 2, units=PLAIN)
    assert rows.read[..., 0].tolist()[:2] == [[2, 3, 4], [6, 7, 8]]
    np.testing.assert_array_equal(rows.read[2, :, 0].numpy(), [NAN, 100, 101])
    assert rows.follow[..., 0].tolist()[0] == [5, 6]
    np.testing.assert_array_equal(rows.follow[1, :, 0].numpy(), [9, NAN])
    np.testing.assert_array_equal(rows.known.past[2, :, 0].numpy(), [NAN, 100, 101])
    np.testing.assert_array_equal(rows.known.future[1, :, 0].numpy(), [60, 70, 80, 90, 100])
    np.testing.assert_array_equal(rows.known.future[2, :, 0].numpy(), [NAN, 0, 10, 20, 30])
    assert rows.known.static.tolist() == [[1.0], [1.0], [2.0]]
    assert rows.known.categories.tolist() == [[0], [0], [3]]
    beyond = series.rows(np.array([[1, 9]]), 2, 3)
    assert beyond.read.isnan().all()
    assert beyond.follow.isnan().all()


def test_where_windows_may_lie(series):
    assert series.places(4, 2).tolist() == [*([0, end] for end in range(2, 9)), [1, 2]]
    assert series.places(4, 2, leave=3).tolist() == [[0, end] for end in range(2, 6)]
    assert series.places(4, 2, first=-3).tolist() == [[0, 7], [0, 8], [1, 2]]
    assert series.places(4, 2, first=7).tolist() == [[0, 7], [0, 8]]
    assert series.places(4, 11).shape == (0, 2)


def test_missing_values_are_filled_with_the_one_before():
    x = torch.tensor([[NAN, NAN, 3.0, NAN, 5.0], [1.0, NAN, NAN, 2.0, NAN], [NAN] * 5])[..., None]
    assert filled(x)[..., 0].tolist() == [[3, 3, 3, 3, 5], [1, 1, 1, 2, 2], [0] * 5]


def test_windows_count_in_their_own_units_unless_others_are_given(series):
    values = [1e9 + np.array([[0.0], [2.0], [NAN], [4.0]]), np.full((4, 1), 0.1)]
    rows = Series(values=values).rows(np.array([[0, 2], [0, 3], [1, 3]]), 2, 1)
    assert rows.read[0, :, 0].tolist() == [-1.0, 1.0]
    assert rows.units.middle.ravel().tolist() == pytest.approx([1e9 + 1, 1e9 + 2, 0.1])
    assert rows.units.spread.ravel().tolist() == [1.0, 1.0, 1.0], "a constant's is 1"
    assert rows.follow[:, 0, 0].isnan().tolist() == [True, True, False], "one value has no units"
    back = rows.units.invert(rows.read.double().numpy())
    np.testing.assert_allclose(back[0], values[0][:2])


def test_a_long_gap_is_no_window_and_a_sparse_row_has_windows():
    values = np.arange(40.0)[:, None]
    values[10:30] = NAN
    assert Series(values=[values]).places(8, 1)[:, 1].tolist() == [*range(4, 17), *range(32, 40)]
    sparse = np.full((40, 1), NAN)
    sparse[::4] = 1.0
    assert Series(values=[sparse]).places(8, 1)[:, 1].tolist() == [*range(5, 40)], "from the second value on"
