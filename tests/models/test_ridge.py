"""A linear forecast against least squares by rows, on waves, with gaps; and on real files against known figures."""

import numpy as np
import pytest
import torch

from exgate.data import series
from exgate.models import io, naive, ridge


def solved(windows, **options):
    model = ridge.build(
        ridge.Config(steps=windows[0].shape[1], horizon=windows[1].shape[1], **options), dtype=torch.float64
    )
    model.solve([windows])
    return model


def test_it_starts_as_the_last_value():
    model = io.build(ridge.Config(steps=5, horizon=2))
    assert model(torch.arange(10.0).view(1, 5, 2))[0].tolist() == [[8.0, 9.0]] * 2


def test_it_is_least_squares_with_rows_for_the_penalty():
    read, follow = torch.randn(40, 6, 2, dtype=torch.float64), torch.randn(40, 3, 2, dtype=torch.float64)
    model = solved((read, follow), strength=0.1)
    rows = torch.cat([read[..., place] - read[:, -1:, place] for place in range(2)])
    sides = torch.cat([follow[..., place] - read[:, -1:, place] for place in range(2)])
    penalty = (0.1 * rows.square().sum() / 6).sqrt() * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.lstsq(torch.cat([rows, penalty]), torch.cat([sides, torch.zeros(6, 3)])).solution
    torch.testing.assert_close(model.weight.detach(), expected.mT)
    last = read[3, -1, 1]
    torch.testing.assert_close(model(read)[3, :, 1].detach(), expected.mT @ (read[3, :, 1] - last) + last)
    parts = ridge.build(model.config, dtype=torch.float64)
    gaps = torch.full_like(read[:2], torch.nan), follow[:2]
    parts.solve([(read[:10], follow[:10]), gaps, (read[10:], follow[10:])])
    torch.testing.assert_close(parts.weight, model.weight)


def test_it_continues_a_wave_whatever_its_level():
    time = torch.arange(200, dtype=torch.float64)
    values = torch.sin(2 * torch.pi * time / 12)[:, None] * torch.tensor([1.0, 3.0]) + torch.tensor([0.0, 50.0])
    both = values.unfold(0, 36, 1).mT
    model = solved((both[:100, :24], both[:100, 24:]), strength=1e-9)
    torch.testing.assert_close(model(both[100:, :24] + 7), both[100:, 24:] + 7, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("file", "steps", "repeated", "linear"),
    [("exchange_rate.csv.gz", 96, (0.081, 0.196), None), ("ETTh1.csv.gz", 336, (1.294, 0.713), (0.370, 0.391))],
)
def test_the_protocol_gives_the_known_figures(real, file, steps, repeated, linear):
    """Mean squared and absolute error of 96 steps on the whole test part: pins splits, scale and windows."""
    record = series.read(real(file))
    read, follow = map(torch.tensor, record.windows("test", steps, 96))
    models = [(naive.build(naive.Config(horizon=96)), repeated)]
    if linear is not None:
        models.append((solved(tuple(map(torch.tensor, record.windows("train", steps, 96)))), linear))
    for model, (squared, absolute) in models:
        error = follow - model(read)
        assert error.square().mean().item() == pytest.approx(squared, abs=5e-4)
        assert error.abs().mean().item() == pytest.approx(absolute, abs=5e-4)
    assert np.isfinite(record.values).all()


def test_patch_by_patch_it_is_the_same_forecast():
    """Whole windows give what `Ridge` gives; beyond its horizon forecasts are read; a gap is the value before it."""
    patched = ridge.PatchRidge(4, 12, 8, dtype=torch.float64)
    torch.nn.init.normal_(patched.ridge.weight, std=0.2)
    x = torch.randn(5, 24, dtype=torch.float64)

    def plain(rows):
        return patched.ridge(rows[..., None])[..., 0]

    y, state = patched(x)
    for end in (12, 16, 20, 24):
        torch.testing.assert_close(y[:, end - 4 : end], plain(x[:, end - 12 : end])[:, :4])
    first = plain(x[:, 12:])
    second = plain(torch.cat([x[:, 20:], first], 1))
    ahead, _ = patched(torch.full((5, 16), torch.nan, dtype=torch.float64), state)
    torch.testing.assert_close(
        ahead, torch.cat([first[:, 4:], second, plain(torch.cat([first, second], 1)[:, 4:])], 1)[:, :16]
    )
    gap = x.clone()
    gap[:, 13:15] = torch.nan
    held = torch.cat([x[:, :13], x[:, 12:13], x[:, 12:13], x[:, 15:]], 1)
    torch.testing.assert_close(patched(gap)[0], patched(held)[0])
    begun = x.clone()
    begun[:, :10] = torch.nan
    held = torch.cat([x[:, 10:11].expand(-1, 10), x[:, 10:]], 1)
    torch.testing.assert_close(patched(begun)[0][:, 8:], patched(torch.cat([held[:, :12], held], 1))[0][:, 20:])


def test_it_starts_with_the_last_value_and_nothing_is_nothing():
    patched = ridge.PatchRidge(4, 12, 8)
    patched.reset_parameters()
    x = torch.full((1, 12), torch.nan)
    x[0, 5] = 3.0
    assert patched(x)[0].tolist() == [[0.0] * 4 + [3.0] * 8]


@pytest.mark.parametrize("steps", [1, 3])
def test_where_nothing_moves_the_last_value_stays(steps):
    model = ridge.build(ridge.Config(steps=steps, horizon=2))
    model.solve([(torch.ones(5, steps, 1), torch.ones(5, 2, 1))])
    assert torch.equal(model.weight, torch.zeros_like(model.weight))
