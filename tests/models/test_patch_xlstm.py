"""Forecasts patch by patch: one call or many, any horizon, missing values, unequal lengths, covariates, learning."""

import json
import math
from dataclasses import replace

import pytest
import torch

from exgate.models import io, patch_xlstm
from exgate.models.patch_xlstm import Covariates
from exgate.ops.state import flatten

SMALL = patch_xlstm.Config(patch=4, quantiles=(0.1, 0.5, 0.9), dim=16, blocks=2, heads=2)
CONFIGS = {
    "sLSTM": SMALL,
    "mLSTM": replace(SMALL, pattern="m"),
    "three series, both cells, no convolution": replace(SMALL, channels=3, pattern="ms", conv_kernel=0),
    "covariates": replace(SMALL, past=2, future=1, static=2, categories=(3, 5)),
    "linear forecast": replace(SMALL, memory=3, leads=2),
    "linear forecast of two series, a patch at a time": replace(SMALL, channels=2, pattern="m", memory=2),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def shaken(config):
    """A float64 model with no weight where it starts."""
    model = patch_xlstm.build(config, dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def sample(config, steps=24, horizon=12, rows=3):
    """Series with gaps, and covariates to the end of a horizon."""
    x = 10 + 5 * torch.randn(rows, steps, config.channels, dtype=torch.float64)
    x[torch.rand(x.shape) < 0.2] = math.nan
    x[:, 8:12] = x[1:, 16:20] = math.nan  # whole patches
    x[:, -1] = 1.0
    past = torch.randn(rows, steps, config.past, dtype=torch.float64) if config.past else None
    future = torch.randn(rows, steps + horizon, config.future, dtype=torch.float64) if config.future else None
    static = torch.randn(rows, config.static, dtype=torch.float64) if config.static else None
    categories = [torch.randint(size, (rows,)) for size in config.categories]
    return x, Covariates(past, future, static, torch.stack(categories, 1) if categories else None)


def cut(known, begin, end, patch):
    """The covariates of steps begin to end, and the future's of the patch after them."""
    past = None if known.past is None else known.past[:, begin:end]
    future = None if known.future is None else known.future[:, begin : end + patch]
    return known._replace(past=past, future=future)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_config
def test_in_one_call_or_in_many(config):
    model = shaken(config)
    x, known = sample(config)
    whole, after = model(x, None, cut(known, 0, 24, 4))
    _, state = model(x, None, cut(known, 0, 24, 4))
    # The scale is that of the whole: what a state goes on with.
    state = state._replace(stack=None)
    parts = []
    for begin, end in ((0, 8), (8, 12), (12, 24)):
        y, state = model(x[:, begin:end], state, cut(known, begin, end, 4))
        parts.append(y)
    close(torch.cat(parts, 1), whole)
    for ours, theirs in zip(flatten(state).values(), flatten(after).values(), strict=True):
        close(ours, theirs)


@every_config
def test_any_horizon_and_the_state_goes_on(config):
    model = shaken(config)
    x, known = sample(config)
    longest, state = model.forecast(x, 12, known=known)
    assert longest.shape == (3, 12, config.channels, 3)
    assert (longest.diff(dim=-1) >= 0).all(), "quantiles do not cross"
    for horizon in (1, 4, 7):
        shorter = known._replace(future=None if known.future is None else known.future[:, : 24 + horizon])
        # Up to the end of the last patch covariates count; those of the steps that were not asked for were not given.
        whole = horizon - horizon % 4 if config.future else horizon
        close(model.forecast(x, horizon, known=shorter)[0][:, :whole], longest[:, :whole])
    # A new patch costs one: the same as reading everything with the scale of the beginning.
    new = torch.randn(3, 4, config.channels, dtype=torch.float64)
    later = cut(known, 24, 28, 8) if known.past is None else cut(known, 24, 28, 8)._replace(past=known.past[:, :4])
    ahead, _ = model.forecast(new, 8, state, later)
    together = known if known.past is None else known._replace(past=torch.cat([known.past, known.past[:, :4]], 1))
    again, _ = model.forecast(torch.cat([x, new], 1), 8, state._replace(stack=None), together)
    close(ahead, again)


@every_config
def test_missing_patches_in_front_leave_no_trace(config):
    model = shaken(config)
    x, known = sample(config)
    expected, _ = model.forecast(x, 12, known=known)
    x = torch.cat([x.new_full((3, 8, config.channels), math.nan), x], 1)
    front = [None if v is None else torch.cat([torch.randn_like(v[:, :8]), v], 1) for v in (known.past, known.future)]
    close(model.forecast(x, 12, known=known._replace(past=front[0], future=front[1]))[0], expected)


def test_a_row_gets_what_it_gets_alone():
    model = shaken(SMALL)
    x, _ = sample(SMALL)
    x[1, :9] = math.nan
    together, _ = model.forecast(x, 6)
    alone, _ = model.forecast(x[1:2, 9:], 6)
    close(together[1:2], alone)


def test_units_do_not_matter():
    model = shaken(SMALL)
    x, _ = sample(SMALL)
    expected, _ = model.forecast(x, 6)
    close(model.forecast(1e-7 * x - 3e-7, 6)[0] * 1e7 + 3, expected)


def test_the_past_does_not_see_the_future():
    model = shaken(CONFIGS["covariates"])
    x, known = sample(CONFIGS["covariates"])
    known = cut(known, 0, 24, 4)
    _, state = model(x, None, known)
    state = state._replace(stack=None)
    y, _ = model(x, state, known)
    other = x.clone()
    other[:, 12:] = 0.0
    future = known.future.clone()
    future[:, 16:] = 0.0  # the third patch forecasts the fourth, whose covariates are known
    z, _ = model(other, state, known._replace(future=future))
    close(z[:, :12], y[:, :12])
    assert not torch.allclose(z[:, 12:], y[:, 12:])


def test_every_covariate_counts():
    config = CONFIGS["covariates"]
    model = shaken(config)
    x, known = sample(config)
    expected, _ = model.forecast(x, 12, known=known)
    for name in Covariates._fields:
        values = getattr(known, name).clone()
        values[:, -1] = values[:, -1] + 1 if values.dtype.is_floating_point else (values[:, -1] + 1) % 3
        assert not torch.allclose(model.forecast(x, 12, known=known._replace(**{name: values}))[0], expected), name


def test_the_loss_is_the_quantile_loss_in_deviations():
    model = shaken(SMALL)
    x, _ = sample(SMALL)
    targets = torch.randn(3, 24, 1, dtype=torch.float64) * 5 + 10
    targets[0, :5] = math.nan
    with torch.no_grad():
        y, state = model(x)
    total, count = 0.0, 0
    for row, step in ((row, step) for row in range(3) for step in range(24)):
        if math.isnan(targets[row, step, 0]):
            continue
        for place, level in enumerate(SMALL.quantiles):
            error = (targets[row, step, 0] - y[row, step, 0, place]) / state.scale.deviation[row, 0, 0]
            total += 2 * float(max(level * error, (level - 1) * error))
            count += 1
    assert model.loss(x, targets).item() == pytest.approx(total / count)
    nothing = torch.full_like(targets, math.nan)
    assert model.loss(x, nothing).item() == 0.0


@every_config
def test_it_learns_to_forecast_further_than_it_is_asked_in_training(config, tmp_path):
    model = patch_xlstm.build(config)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)

    def waves(rows):
        time = torch.arange(48)[None, :, None] + torch.randint(100, (rows, 1, 1), generator=generator)
        x = 20 + 7 * torch.sin(2 * math.pi * time / 8) + torch.zeros(config.channels)
        past, static = (torch.zeros(rows, size) if size else None for size in (config.past, config.static))
        future = torch.zeros(rows, 48, config.future) if config.future else None
        categories = torch.zeros(rows, len(config.categories), dtype=torch.long) if config.categories else None
        past = None if past is None else past[:, None].expand(-1, 48, -1)
        return x, Covariates(past, future, static, categories)

    for _ in range(150):
        x, known = waves(32)
        hidden = x[:, :28].clone()
        hidden[:, 24:] = math.nan
        loss = model.loss(hidden, x[:, 4:32], cut(known, 0, 28, 4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x, known = waves(16)
    known = known._replace(past=None if known.past is None else known.past[:, :24])
    y, _ = model.eval().forecast(x[:, :24], 24, known=known)
    error = (y[..., 1] - x[:, 24:]).abs()
    assert error[:, :8].mean() < 1.5, error.mean((0, 2))
    assert error[:, 8:].mean() < 6.0, error.mean((0, 2))
    io.save(model, tmp_path)
    again = io.load(tmp_path).eval()
    torch.testing.assert_close(again.forecast(x[:, :24], 24, known=known)[0], y, rtol=0, atol=0)
    known = cut(known, 0, 20, 4)
    losses = [each.loss(x[:, :20], x[:, 4:24], known).item() for each in (again, model)]
    assert losses[0] == losses[1]


def test_what_is_wrong_is_said():
    for quantiles in ((), (0.5, 0.1), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)):
        with pytest.raises(ValueError, match="should rise and lie between 0 and 1"):
            replace(SMALL, quantiles=quantiles)
    for options in ({"memory": -1}, {"memory": 2, "leads": 0}):
        with pytest.raises(ValueError, match="at least 0, and leads="):
            replace(SMALL, **options)
    with pytest.raises(ValueError, match="letters m, s"):
        replace(SMALL, pattern="a")
    fields = io.config_to_dict(replace(SMALL, quantiles=(0.25, 0.5), categories=(2,)))
    assert io.config_from_dict(json.loads(json.dumps(fields))) == replace(SMALL, quantiles=(0.25, 0.5), categories=(2,))
    for key, value, should in (
        ("quantiles", [0.5, "0.9"], "a list of numbers"),
        ("categories", [2.0], "a list of whole numbers"),
        ("categories", 2, "of type a list of numbers"),
    ):
        with pytest.raises(ValueError, match=f"{key} is .* but should be {should}"):
            io.config_from_dict(fields | {key: value})
    model = patch_xlstm.build(SMALL)
    with pytest.raises(ValueError, match=r"x has shape \(1, 6, 1\).* multiple of P=4"):
        model(torch.zeros(1, 6, 1))
    with pytest.raises(ValueError, match=r"known\.static is of shape \(1, 2\); it should be not given"):
        model(torch.zeros(1, 8, 1), None, Covariates(static=torch.zeros(1, 2)))
    with pytest.raises(ValueError, match=r"known\.past is not given"):
        patch_xlstm.build(CONFIGS["covariates"])(torch.zeros(1, 8, 1))
    _, state = model(torch.zeros(1, 8, 1))
    with pytest.raises(ValueError, match="whole patches of P=4"):
        model.forecast(torch.zeros(1, 6, 1), 4, state)
    with pytest.raises(ValueError, match="horizon is 0"):
        model.forecast(torch.zeros(1, 8, 1), 0)
