"""Scales and trends of series: missing values, the ends of a moving average, what a decomposed map starts as."""

import math

import pytest
import torch

from exgate.layers.series import Decomposed, scale, trend


def test_a_scale_leaves_missing_values_out():
    x = torch.tensor([[[1.0, math.nan], [math.nan, math.nan], [5.0, math.nan]]])
    own = scale(x, eps=0.0)
    assert own.mean.tolist() == [[[3.0, 0.0]]]
    assert own.deviation.tolist() == [[[2.0, 1.0]]]
    torch.testing.assert_close(own.apply(x)[0, :, 0], torch.tensor([-1.0, math.nan, 1.0]), equal_nan=True)


def test_a_scale_is_inverted_and_a_constant_has_one():
    x = 100 * torch.randn(3, 50, 2, dtype=torch.float64) + torch.tensor([7.0, 0.0])
    x[0, :, 1] = 4.0
    own = scale(x)
    torch.testing.assert_close(own.invert(own.apply(x)), x)
    assert own.deviation[0, 0, 1] == pytest.approx(math.sqrt(1e-5))
    inner = own.apply(x)[1:]
    torch.testing.assert_close(inner.mean(1), torch.zeros(2, 2, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(inner.var(1, correction=0), torch.ones(2, 2, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 4, 5])
def test_a_trend_is_a_moving_average_between_repeated_ends(kernel):
    x = torch.randn(2, 12, 3, dtype=torch.float64)
    before = (kernel - 1) // 2
    for t in range(12):
        window = [min(max(t - before + place, 0), 11) for place in range(kernel)]
        torch.testing.assert_close(trend(x, kernel)[:, t], x[:, window].mean(1))


def test_a_decomposed_map_is_the_same_for_every_series_and_starts_as_the_mean():
    linear = Decomposed(20, 4, dtype=torch.float64)
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    y = linear(x)
    assert y.shape == (2, 4, 3)
    torch.testing.assert_close(linear(x[:, :, [2, 0]]), y[:, :, [2, 0]])
    with torch.no_grad():
        linear.seasonal.bias.zero_()
        linear.trend.bias.zero_()
    torch.testing.assert_close(linear(x), x.mean(1, keepdim=True).expand(-1, 4, -1))
