"""Reading on: the same as reading again, in many rows at once, at the cost of the new patches alone."""

import numpy as np
import pytest
import torch

from exgate.forecast.online import Reader, advance, forecast
from exgate.forecast.windows import PLAIN, Series
from exgate.models import patch_xlstm
from exgate.ops.state import flatten

PATCH, STEPS = 4, 16


@pytest.fixture
def model():
    config = patch_xlstm.Config(patch=PATCH, quantiles=(0.1, 0.5, 0.9), dim=16, blocks=2, heads=2, past=1, future=1)
    model = patch_xlstm.build(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


def made(rows=3, length=80):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(length, 1)) + 10 * row for row in range(rows)]
    values[0][5:9] = np.nan
    return Series(values=values, past=values, future=[rng.normal(size=(length + 20, 1)) for _ in range(rows)])


def again(model, series, row, begin, end, horizon, scaled):
    """Reading all of it at once, with the scale of the first L values."""
    rows = series.rows(np.array([[row, end]]), end - begin, horizon, units=PLAIN)
    state = patch_xlstm.PatchState(patch_xlstm.scale(scaled[None], eps=0.0), None)
    return model.forecast(rows.read, horizon, state, rows.known)[0][0]


def told(*arguments):
    """A forecast in the series' own numbers."""
    y, units = forecast(*arguments)
    return y * torch.as_tensor(units.spread[..., None]) + torch.as_tensor(units.middle[..., None])


def window(series, row, end):
    return torch.as_tensor(series.values[row][max(0, end - STEPS) : end], dtype=torch.float32)


@torch.no_grad()
def test_reading_on_is_reading_again(model):
    series, readers = made(), [Reader() for _ in range(3)]
    begun = {}  # of a row and a place: where its state began
    for end in range(20, 70):
        ends = [end, end, end - 3]
        y = told(model, readers, series, ends, 6, STEPS)
        for row, last in enumerate(ends):
            key = row, last % PATCH
            if key not in begun or last - begun[key] > 2 * STEPS:
                begun[key] = last - STEPS
            anchor = window(series, row, begun[key] + STEPS)
            expected = again(model, series, row, begun[key], last, 6, anchor)
            torch.testing.assert_close(y[row].float(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_it_begins_as_a_forecast_of_the_last_values(model):
    series = made()
    rows = series.rows(np.array([[0, 50], [1, 50], [2, 50]]), STEPS, 6, units=PLAIN)
    expected, _ = model.forecast(rows.read, 6, None, rows.known)
    y = told(model, [Reader() for _ in range(3)], series, [50] * 3, 6, STEPS)
    torch.testing.assert_close(y.float(), expected, rtol=1e-4, atol=1e-4)
    twice = [Reader() for _ in range(3)]
    forecast(model, twice, series, [50] * 3, 12, STEPS)
    torch.testing.assert_close(told(model, twice, series, [50] * 3, 6, STEPS), y, rtol=1e-5, atol=1e-5)


def test_a_new_value_costs_one_patch_and_memory_stays(model):
    series, reader, read = made(rows=1, length=400), Reader(), []
    inner = model.stack.forward
    model.stack.forward = lambda x, *rest, **named: (read.append(x.shape[1]), inner(x, *rest, **named))[1]
    sizes, costs = [], []
    for end in range(20, 400):
        read.clear()
        advance(model, [reader], series, [end], STEPS)
        costs.append(sum(read))
        sizes.append(sum(leaf.numel() for now in reader.states.values() for leaf in flatten(now.state).values()))
    begin = STEPS // PATCH - 1  # patches of a beginning
    assert set(costs) == {1, begin}
    assert sum(costs[PATCH:]) / len(costs[PATCH:]) < 2
    assert len(set(sizes[PATCH:])) == 1


def test_a_gap_longer_than_what_is_read_begins_anew(model):
    series, reader = made(rows=1), [Reader()]
    forecast(model, reader, series, [20], 3, STEPS)
    late = told(model, reader, series, [60], 3, STEPS)
    torch.testing.assert_close(late, told(model, [Reader()], series, [60], 3, STEPS), rtol=1e-5, atol=1e-5)


def test_a_short_row_leaves_no_trace_before_its_first_value(model):
    """Whose values all lie in the last patch, and later in more."""
    series, short = made(rows=1), made(rows=1, length=12)
    short = Series(values=short.values, past=short.past, future=series.future)
    reader = [Reader()]
    for end in (3, 7, 11):
        rows = short.rows(np.array([[0, end]]), end + 1, 5, units=PLAIN)  # whole patches: the first one is not full
        y = told(model, reader, short, [end], 5, STEPS)
        state = patch_xlstm.PatchState(patch_xlstm.scale(window(short, 0, 3)[None], eps=0.0), None)
        expected, _ = model.forecast(rows.read, 5, state, rows.known)
        torch.testing.assert_close(y.float(), expected, rtol=1e-4, atol=1e-4)
