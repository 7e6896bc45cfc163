"""Forecasters inside sktime: its own checks, and what they do not look at."""

import copy
import inspect
import pickle

import numpy as np
import pytest

pytest.importorskip("sktime", reason="tests/adapters/run.sh runs it, with sktime")

import pandas as pd
from sktime.forecasting.base import ForecastingHorizon
from sktime.forecasting.model_evaluation import evaluate
from sktime.split import ExpandingWindowSplitter
from sktime.utils.estimator_checks import check_estimator

from exgate.forecast import Forecaster
from exgate.forecast.adapters.sktime import ExgateForecaster

SMALL = {"dim": 16, "blocks": 1, "heads": 2}
QUICK = {"max_steps": 40, "batch_size": 16, "learning_rate": 1e-2, "val_check_steps": 10, "input_size": 32}


def made(**options):
    return ExgateForecaster(**{"options": SMALL, **QUICK, **options})


def wave(count=160, kind="period", height=1.0):
    """Waves of 8 hours."""
    index = {
        "period": pd.period_range("2024-01-01", periods=count, freq="h"),
        "quarters": pd.period_range("2024-01-01", periods=count, freq="15min"),
        "time": pd.date_range("2024-01-01", periods=count, freq="h"),
        "zone": pd.date_range("2024-01-01", periods=count, freq="h", tz="Europe/Paris"),
        "months": pd.date_range("1990-01-01", periods=count, freq="MS"),
        "number": pd.RangeIndex(7, 7 + count),
    }[kind]
    y = height * (np.sin(2 * np.pi * np.arange(count) / 8) + 5)
    return pd.Series(y + 0.01 * np.random.default_rng(0).normal(size=count), index=index, name="waves")


def panel(**series):
    parts = {name: y.to_frame() for name, y in series.items()}
    return pd.concat(parts, names=["series", "time"])


@pytest.mark.timeout(900)
def test_it_passes_the_checks_of_sktime():
    found = check_estimator(ExgateForecaster, verbose=False)
    assert len(found) > 500
    assert {name: answer for name, answer in found.items() if answer != "PASSED"} == {}


@pytest.mark.parametrize("kind", ["period", "quarters", "time", "zone", "months", "number"])
def test_times_of_every_kind(kind):
    y = wave(kind=kind)
    fh = [1, 2, 5]
    answer = made().fit(y[:-8], fh=fh).predict()
    assert answer.name == "waves"
    pd.testing.assert_index_equal(answer.index, y.index[[-8, -7, -4]], check_names=False)
    np.testing.assert_allclose(answer, y.iloc[[-8, -7, -4]], rtol=0.1)
    ahead = made().fit(y[:-8], fh=ForecastingHorizon(y.index[-8:], is_relative=False)).predict()
    pd.testing.assert_index_equal(ahead.index, y.index[-8:], check_names=False)


def test_answers_are_those_of_the_forecaster():
    y = wave(kind="time")
    forecaster = made().fit(y, fh=np.arange(1, 9))
    df = pd.DataFrame({"ds": y.index, "y": y.to_numpy()})
    own = Forecaster(h=8, **SMALL, **QUICK).fit(df).predict(quantiles=[0.05, 0.95])
    np.testing.assert_allclose(forecaster.predict(), own["PatchXLSTM"], rtol=1e-5)
    interval = forecaster.predict_interval(coverage=0.9)["waves"][0.9]
    np.testing.assert_allclose(interval["lower"], own["PatchXLSTM_ql0.05"], rtol=1e-5)
    np.testing.assert_allclose(interval["upper"], own["PatchXLSTM_ql0.95"], rtol=1e-5)
    quantiles = forecaster.predict_quantiles(alpha=[0.1, 0.55, 0.9])
    assert (np.diff(quantiles.to_numpy(), axis=1) >= 0).all()


def test_any_horizon_where_h_is_given():
    forecaster = made(h=8).fit(wave())
    assert not forecaster.get_tag("requires-fh-in-fit")
    assert len(forecaster.predict(fh=np.arange(1, 31))) == 30
    assert len(forecaster.predict(fh=[3])) == 1
    with pytest.raises(ValueError, match="must be passed"):
        made().fit(wave())


def test_covariates_are_used():
    y = wave()
    X = pd.DataFrame({"promo": np.random.default_rng(1).integers(0, 2, 160)}, index=y.index)
    y = 10 + 5 * X["promo"].astype(float)
    forecaster = made(max_steps=200).fit(y[:-8], X=X[:-8], fh=np.arange(1, 9))
    np.testing.assert_allclose(forecaster.predict(X=X[-8:]), y[-8:], atol=1)
    with pytest.raises(ValueError, match="fitted with X"):
        forecaster.predict()
    with pytest.raises(ValueError, match=r"X\.promo"):
        forecaster.predict(X=X[-8:-2])


def test_one_network_for_a_panel_whose_series_end_at_different_times():
    long, short = wave(160), wave(100, height=10.0)
    forecaster = made(h=8).fit(panel(b=long, a=short))
    answer = forecaster.predict(fh=[1, 2, 8])
    assert list(answer.index.names) == ["series", "time"]
    for name, y in (("b", long), ("a", short)):
        own = answer.loc[name, "waves"]
        assert list(own.index) == [y.index[-1] + step for step in (1, 2, 8)]
        shape = np.sin(2 * np.pi * (len(y) - 1 + np.array([1, 2, 8])) / 8) + 5
        np.testing.assert_allclose(own, shape * (10 if name == "a" else 1), rtol=0.1)
    assert not hasattr(forecaster, "forecasters_"), "sktime did not fit one for each series"
    assert set(forecaster.predict_interval(fh=[1], coverage=[0.8]).index.get_level_values(0)) == {"a", "b"}


def test_series_of_a_hierarchy_and_gaps():
    y = panel(a=wave(90), b=wave(100))
    y = pd.concat({"x": y, "z": y}, names=["shop"])
    y.iloc[5:9] = np.nan
    assert len(made(h=4, max_steps=3).fit(y).predict(fh=[1, 4])) == 8


def test_times_that_are_left_out_count_as_missing():
    y = wave(kind="time").drop(wave(kind="time").index[40:43])
    answer = made(h=8).fit(y).predict(fh=[1, 2])
    assert list(answer.index) == list(pd.date_range("2024-01-07 16:00", periods=2, freq="h"))


def test_update_without_learning_goes_on():
    y = wave(kind="time")
    forecaster = made(h=8).fit(y[:100])
    weights = copy.deepcopy(forecaster.forecaster_.network.module.state_dict())
    forecaster.update(y[98:103], update_params=False)
    forecaster.update(y[103:110], update_params=False)
    own = Forecaster(h=8, **SMALL, **QUICK).fit(pd.DataFrame({"ds": y.index[:100], "y": y[:100].to_numpy()}))
    own.update(pd.DataFrame({"ds": y.index[100:110], "y": y[100:110].to_numpy()}))
    answer = forecaster.predict(fh=np.arange(1, 9))
    assert list(answer.index) == list(y.index[110:118])
    np.testing.assert_allclose(answer, own.predict()["PatchXLSTM"], rtol=1e-5)
    for name, value in forecaster.forecaster_.network.module.state_dict().items():
        assert value.equal(weights[name])


def test_update_learns_anew():
    y = wave()
    forecaster = made(h=8).set_config(remember_data=True).fit(y[:100]).update(y[100:])
    np.testing.assert_allclose(forecaster.predict(fh=[1, 8]), made(h=8).fit(y).predict(fh=[1, 8]), rtol=1e-5)


def test_update_of_a_panel():
    long, short = wave(160), wave(100)
    forecaster = made(h=4, max_steps=3).fit(panel(a=long[:-8], b=short))
    forecaster.update(panel(a=long[-8:]), update_params=False)
    answer = forecaster.predict(fh=[1])
    assert answer.index[0] == ("a", long.index[-1] + 1)
    assert answer.index[1] == ("b", short.index[-1] + 1)
    with pytest.raises(ValueError, match=r"\('c',\) was not fitted"):
        forecaster.update(panel(c=short), update_params=False)


def test_it_is_evaluated():
    cv = ExpandingWindowSplitter(fh=np.arange(1, 9), initial_window=120, step_length=16)
    found = evaluate(made(), cv=cv, y=wave(), strategy="no-update_params")
    assert found.iloc[:, 0].max() < 1
    assert len(found) == 3


def test_networks_without_covariates_ignore_x():
    y = wave()
    X = pd.DataFrame({"promo": np.zeros(160)}, index=y.index)
    forecaster = made(model="ridge", options=None)
    assert not forecaster.get_tag("capability:exogenous")
    np.testing.assert_allclose(forecaster.fit(y[:-8], X=X[:-8], fh=[1, 8]).predict(), y.iloc[[-8, -1]], rtol=0.1)
    assert len(forecaster.predict_interval(coverage=0.8)) == 2


def test_fitted_it_can_be_copied_and_pickled():
    forecaster = made(h=8, max_steps=3).fit(wave())
    expected = forecaster.predict(fh=[1, 8])
    for other in (copy.deepcopy(forecaster), pickle.loads(pickle.dumps(forecaster))):
        pd.testing.assert_series_equal(other.predict(fh=[1, 8]), expected)


def test_defaults_are_those_of_the_forecaster():
    ours, theirs = (inspect.signature(each).parameters for each in (ExgateForecaster, Forecaster))
    shared = (ours.keys() & theirs.keys()) - {"h", "options"}
    assert len(shared) > 10
    assert {name: ours[name].default for name in shared} == {name: theirs[name].default for name in shared}
