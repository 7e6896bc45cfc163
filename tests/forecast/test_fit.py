"""Training forecasters: they learn, the best weights are kept, it stops, and what cannot be is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from exgate.forecast import fit
from exgate.forecast.fit import Budget
from exgate.forecast.windows import Series
from exgate.models import dlinear, patch_xlstm, xlstm_time

FEW = Budget(steps=60, batch=16, rate=1e-2, check=20)
MODELS = {
    "patch_xlstm": patch_xlstm.Config(patch=4, quantiles=(0.1, 0.5, 0.9), dim=16, blocks=1, heads=2),
    "xlstm_time": xlstm_time.Config(steps=16, horizon=6, channels=1, dim=16, blocks=1, heads=2, axis="time"),
    "dlinear": dlinear.Config(steps=16, horizon=6, kernel=5),
}
BUILD = {"patch_xlstm": patch_xlstm.build, "xlstm_time": xlstm_time.build, "dlinear": dlinear.build}


def waves():
    time = np.arange(120.0)
    return Series(values=[np.sin(2 * np.pi * (time[:, None] + phase) / 8) + level for phase, level in ((0, 0), (3, 9))])


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_and_keeps_the_best_weights(name):
    model, series = BUILD[name](MODELS[name]), waves()
    held = series.places(16, 6, first=-30)
    before = fit.score(model, series, held, 16, 6)
    seen = []
    history = fit.train(
        model,
        series,
        steps=16,
        horizon=6,
        validation=30,
        budget=FEW,
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert [step for step, _ in history.validation] == [0, 20, 40, 60]
    assert seen == list(enumerate(history.training, 1))
    best = min(loss for _, loss in history.validation)
    assert (history.best, best) in history.validation
    assert fit.score(model, series, held, 16, 6) == pytest.approx(best)
    assert best < 0.5 * before


def test_the_validation_block_is_not_learnt_from():
    """Whatever stands there, the weights are the same."""
    models = []
    for last in (0.0, 50.0):
        torch.manual_seed(0)
        models.append(dlinear.build(MODELS["dlinear"]))
        series = waves()
        for values in series.values:
            values[-30:] = last
        fit.train(models[-1], series, steps=16, horizon=6, validation=30, budget=replace(FEW, steps=10, check=10))
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_it_stops_when_it_gets_no_better():
    series = waves()
    rng = np.random.default_rng(0)
    series = replace(series, values=[rng.normal(size=values.shape) for values in series.values])  # nothing to learn
    budget = replace(FEW, steps=400, rate=0.1, check=5, patience=2)
    history = fit.train(dlinear.build(MODELS["dlinear"]), series, steps=16, horizon=6, validation=30, budget=budget)
    assert len(history.training) < 400
    assert history.best <= len(history.training) - 10


def test_the_start_is_kept_where_training_makes_it_worse():
    """The linear forecast that was solved, to which nothing can be added but noise."""
    series = waves()
    config = patch_xlstm.Config(patch=4, quantiles=(0.1, 0.5, 0.9), dim=16, blocks=1, heads=2, memory=4, leads=2)
    torch.manual_seed(0)
    model = patch_xlstm.build(config)
    start = {name: weight.clone() for name, weight in model.state_dict().items() if not name.startswith("base.")}
    history = fit.train(model, series, steps=16, horizon=6, validation=30, budget=replace(FEW, steps=5, rate=0.3))
    assert [step for step, _ in history.validation] == [0, 5]
    assert history.best == 0
    assert len(history.training) == 5
    for name, weight in start.items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0, atol=0)
    assert model.base.ridge.weight.abs().sum() > 0
    assert fit.score(model, series, series.places(16, 6, first=-30), 16, 6) == history.validation[0][1]


def test_the_median_can_be_scored_alone():
    series = waves()
    torch.manual_seed(0)
    model = patch_xlstm.build(MODELS["patch_xlstm"])
    places = series.places(16, 6, first=-30)
    rows = series.rows(places, 16, 6)
    error = (model.forecast(rows.read, 6)[0][..., 1] - rows.follow).abs().mean().item()
    assert fit.score(model, series, places, 16, 6, median=True) == pytest.approx(error, rel=1e-5)
    budget = replace(FEW, steps=20, median=True)
    history = fit.train(model, series, steps=16, horizon=6, validation=30, budget=budget)
    assert history.validation[0] == (0, pytest.approx(error, rel=1e-5))


def test_a_good_start_does_not_end_training():
    """Its first steps may be worse, and later ones better: patience counts from the best of what was learnt."""
    model = patch_xlstm.build(replace(MODELS["patch_xlstm"], memory=4, leads=2))
    budget = replace(FEW, steps=12, rate=1e-2, check=1, patience=4)
    looks = iter([1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 2.0, 2.0, 2.0, 0.5])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit, "score", lambda *_, **__: next(looks))
        history = fit.train(model, waves(), steps=16, horizon=6, validation=30, budget=budget)
    assert history.best == 12


def test_what_cannot_be_is_said():
    model = dlinear.build(MODELS["dlinear"])
    with pytest.raises(ValueError, match=r"no window of 16 \+ 6 steps fits before the last 110 .* longest has 120"):
        fit.train(model, waves(), steps=16, horizon=6, validation=110, budget=FEW)
    with torch.no_grad():
        model.linear.trend.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match="the loss is inf at step 1"):
        fit.train(model, waves(), steps=16, horizon=6, validation=30, budget=FEW)


def test_a_running_average_of_the_weights_is_kept():
    series, seen = waves(), []

    def train(average):
        torch.manual_seed(0)
        model = dlinear.build(MODELS["dlinear"])
        budget = Budget(steps=4, batch=4, rate=0.1, average=average)

        def look(*_):
            seen.append(model.linear.trend.weight.detach().clone())

        fit.train(model, series, steps=16, horizon=6, validation=0, budget=budget, on_step=look)
        return model.linear.trend.weight.detach()

    plain = train(0.0)
    assert len(seen) == 4
    torch.testing.assert_close(plain, seen[-1], rtol=0, atol=0)
    expected = seen[0]
    for count, weight in enumerate(seen[1:4], 1):
        expected = expected.lerp(weight, 1 - min(0.2, (1 + count) / (10 + count)))
    torch.testing.assert_close(train(0.2), expected)
