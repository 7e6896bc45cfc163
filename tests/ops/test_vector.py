"""The kernels' own exp, log1p, tanh, sigmoid and logsigmoid against float64, with every instruction set."""

import numpy as np
import pytest
import torch

from exgate.ops import native

SETS = native.usable()
pytestmark = pytest.mark.skipif(not SETS, reason="needs the compiled kernels")

EXACT = {
    "exp": np.exp,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))),
    "logsigmoid": lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
}


def _map(isa: str, name: str, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    with native.instruction_set(isa):
        native.call("exgate_map", name.encode(), torch.from_numpy(x), torch.from_numpy(y), x.size)
    return y


def _points() -> np.ndarray:
    """Dense near zero at every size down to the smallest normal number, and dense up to +-110."""
    small = np.logspace(-37, 0, 200_001)
    wide = np.linspace(0, 110, 300_001)
    both = np.concatenate([small, wide, np.linspace(87, 90, 30_001)])
    return np.concatenate([both, -both]).astype(np.float32)


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("name", EXACT)
def test_within_about_two_units_in_the_last_place(isa, name):
    x = _points()
    if name == "log1p":
        x = np.concatenate([x[x > -1], np.logspace(0, 38, 10_001).astype(np.float32)])
    with np.errstate(over="ignore"):
        exact = EXACT[name](x.astype(np.float64))
        rounded = exact.astype(np.float32)
    found = _map(isa, name, x)
    assert np.array_equal(np.isinf(found), np.isinf(rounded))
    finite = np.isfinite(rounded)
    unit = np.spacing(np.abs(rounded[finite]))
    assert np.max(np.abs(found[finite].astype(np.float64) - exact[finite]) / unit) <= 2.5


@pytest.mark.parametrize("isa", SETS)
def test_infinities_nan_and_zeros(isa):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    wanted = {
        "exp": [np.inf, 0, np.nan, 1, 1],
        "log1p": [np.inf, np.nan, np.nan, 0, -0.0],
        "tanh": [1, -1, np.nan, 0, -0.0],
        "sigmoid": [1, 0, np.nan, 0.5, 0.5],
        "logsigmoid": [0, -np.inf, np.nan, -np.log(np.float32(2)), -np.log(np.float32(2))],
    }
    for name, values in wanted.items():
        np.testing.assert_array_equal(_map(isa, name, x), np.array(values, np.float32), err_msg=name)
    assert _map(isa, "log1p", np.array([-1.0], np.float32))[0] == -np.inf
    assert np.signbit(_map(isa, "tanh", x))[4]


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 15, 16, 17, 33])
def test_any_count_writes_no_more_than_that(isa, count):
    x = np.linspace(-2, 2, count).astype(np.float32)
    y = np.full(count + 32, 7.0, np.float32)
    with native.instruction_set(isa):
        native.call("exgate_map", b"exp", torch.from_numpy(x), torch.from_numpy(y), count)
    np.testing.assert_allclose(y[:count], np.exp(x), rtol=1e-6)
    assert (y[count:] == 7.0).all()


@pytest.mark.parametrize("isa", SETS)
def test_bfloat16_rounds_as_pytorch_does(isa):
    x = torch.cat(
        [torch.randn(1001) * 3, torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 1.00390625, 1.01171875])]
    )
    half, back = torch.empty(x.shape, dtype=torch.bfloat16), torch.empty_like(x)
    with native.instruction_set(isa):
        native.call("exgate_round_trip", x, half, back, x.numel())
    torch.testing.assert_close(back, x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(half, x.bfloat16(), rtol=0, atol=0, equal_nan=True)
