"""Forecasters inside gluonts: its data sets are learnt, forecast and evaluated; nothing is pickled."""

import numpy as np
import pytest

pytest.importorskip("gluonts", reason="tests/adapters/run.sh runs it, with gluonts")

import pandas as pd
from gluonts.dataset.pandas import PandasDataset
from gluonts.dataset.split import split
from gluonts.ev.metrics import MAE, MASE, MeanWeightedSumQuantileLoss
from gluonts.evaluation import Evaluator, make_evaluation_predictions
from gluonts.model import evaluate_model
from gluonts.model.predictor import Predictor

from exgate.forecast import Forecaster
from exgate.forecast.adapters.gluonts import ENTRIES, ExgatePredictor, frames

SMALL = {"dim": 16, "blocks": 1, "heads": 2}
QUICK = {"max_steps": 40, "batch_size": 16, "learning_rate": 1e-2, "val_check_steps": 10, "input_size": 32}
HALF = [0.1, 0.5, 0.9]


def waves(freq="h"):
    """Waves of 8 steps, of unequal length and with gaps."""
    rng, entries = np.random.default_rng(0), []
    for place, (name, count) in enumerate((("a", 160), ("b", 90))):
        target = 10**place * (np.sin(2 * np.pi * np.arange(count) / 8) + 5) + 0.01 * rng.normal(size=count)
        entries.append({"start": pd.Period("2024-01-01", freq), "target": target, "item_id": name})
    entries[1]["target"][10:20] = np.nan
    return entries


def fitted(entries, h=8, **options):
    forecaster = Forecaster(h=h, **{**SMALL, **QUICK, **options})
    return forecaster.fit(*frames(entries, forecaster))


@pytest.fixture(scope="module")
def predictor():
    return ExgatePredictor(fitted(waves()))


def test_forecasts_are_those_of_the_forecaster(predictor):
    forecasts = list(predictor.predict(waves()))
    assert [forecast.item_id for forecast in forecasts] == ["a", "b"]
    assert forecasts[0].start_date == pd.Period("2024-01-07 16:00", "h")
    df, _ = frames(waves(), predictor.forecaster)
    own = predictor.forecaster.predict(df=df, quantiles=[0.1, 0.5, 0.55])
    for place, forecast in enumerate(forecasts):
        rows = own[own.unique_id == place]
        np.testing.assert_allclose(forecast.quantile(0.1), rows["PatchXLSTM_ql0.1"], rtol=1e-5)
        np.testing.assert_allclose(forecast.quantile(0.55), rows["PatchXLSTM_ql0.55"], rtol=1e-5)
        np.testing.assert_allclose(forecast.mean, rows["PatchXLSTM_ql0.5"], rtol=1e-5)
        assert (
            np.diff([forecast.quantile(level) for level in predictor.forecaster.network.quantiles], axis=0) >= 0
        ).all()


def test_it_is_evaluated(predictor):
    forecasts, series = make_evaluation_predictions(waves(), predictor)
    found, _ = Evaluator(quantiles=HALF, num_workers=0)(series, forecasts)
    assert found["mean_wQuantileLoss"] < 0.05
    _, template = split(waves(), offset=-24)
    pairs = template.generate_instances(8, windows=3)
    metrics = [MAE(), MASE(), MeanWeightedSumQuantileLoss(HALF)]
    assert evaluate_model(predictor, test_data=pairs, metrics=metrics, seasonality=8).iloc[0, -1] < 0.05


def test_any_horizon_and_many_entries(predictor):
    entries = waves() * (ENTRIES // 2 + 1)
    forecasts = list(ExgatePredictor(predictor.forecaster, 21).predict(iter(entries)))
    assert len(forecasts) == len(entries)
    assert forecasts[-1].prediction_length == 21
    np.testing.assert_allclose(forecasts[0].quantile(0.5), forecasts[-2].quantile(0.5), rtol=1e-4)


def test_what_the_network_does_not_read_is_left_out(predictor):
    whole = waves()[0]
    late = {**whole, "start": whole["start"] + 160 - 32, "target": whole["target"][-32:]}
    one, other = predictor.predict([whole, late])
    np.testing.assert_allclose(one.forecast_array, other.forecast_array, rtol=1e-5)
    assert one.start_date == other.start_date
    ended = {**whole, "target": np.concatenate([whole["target"], np.full(50, np.nan)])}
    assert np.isfinite(next(iter(predictor.predict([ended]))).forecast_array).all()


@pytest.mark.parametrize("freq", ["D", "M", "W", "W-WED", "Q-DEC", "Y", "15min", "30s"])
def test_frequencies(freq):
    entry = {**waves(freq)[0], "start": pd.Period("2024-01-03", freq)}
    forecaster = fitted([entry], h=3, max_steps=2)
    forecast = next(iter(ExgatePredictor(forecaster).predict([entry])))
    assert forecast.start_date == entry["start"] + 160


def test_a_forecaster_of_month_starts():
    df = pd.DataFrame({"ds": pd.date_range("2000-01-01", periods=120, freq="MS"), "y": np.arange(120.0) % 12})
    forecaster = Forecaster(h=3, **SMALL, **{**QUICK, "max_steps": 2}).fit(df)
    entry = {"start": pd.Period("2000-01", "M"), "target": np.arange(120.0) % 12}
    forecast = next(iter(ExgatePredictor(forecaster).predict([entry])))
    own = forecaster.predict(df=df, quantiles=[0.5])
    np.testing.assert_allclose(forecast.quantile(0.5), own["PatchXLSTM_ql0.5"], rtol=1e-5)
    assert forecast.start_date == pd.Period("2010-01", "M")


def test_another_frequency_is_refused(predictor):
    with pytest.raises(ValueError, match="entry 'a' has steps of 'D', the forecaster of 'h'"):
        list(predictor.predict(waves("D")))


def covariates(steps):
    """Entries with all that gluonts knows; to the end of the horizon where it is known ahead."""
    rng = np.random.default_rng(1)
    entries = waves()
    for place, entry in enumerate(entries):
        count = len(entry["target"])
        entry["feat_dynamic_real"] = rng.integers(0, 2, (2, count + steps)).astype(float)
        entry["target"] = 10 + 5 * entry["feat_dynamic_real"][0, :count]
        entry["past_feat_dynamic_real"] = rng.normal(size=(1, count))
        entry["feat_static_real"], entry["feat_static_cat"] = np.array([0.5 * place]), np.array([place, 3])
    return entries


def test_covariates():
    names = {
        "futr_exog_list": ["promo", "noise"],
        "hist_exog_list": ["past"],
        "stat_exog_list": ["size", "shop", "kind"],
    }
    forecaster = fitted(covariates(0), max_steps=200, **names)
    assert forecaster._known.static_numbers == ["size"]
    assert forecaster._known.categories == {"shop": ["0", "1"], "kind": ["3"]}
    entries = covariates(8)
    for forecast, entry in zip(ExgatePredictor(forecaster).predict(entries), entries, strict=True):
        np.testing.assert_allclose(forecast.quantile(0.5), 10 + 5 * entry["feat_dynamic_real"][0, -8:], atol=1)
    with pytest.raises(ValueError, match=r"feat_dynamic_real of entry 'a' has shape \(2, 160\); it should be \(2, 168"):
        list(ExgatePredictor(forecaster).predict(covariates(0)))
    entries[1]["feat_static_cat"] = np.array([-1, 3])
    assert np.isfinite(list(ExgatePredictor(forecaster).predict(entries))[1].forecast_array).all()


def test_a_data_set_of_frames():
    df = pd.DataFrame({
        "item_id": np.repeat(["a", "b"], 100), "y": np.tile(np.sin(2 * np.pi * np.arange(100) / 8), 2),
        "time": np.tile(pd.date_range("2024-01-01", periods=100, freq="h"), 2),
        "kind": pd.Categorical(["x"] * 100 + ["z"] * 100),
    })  # fmt: skip
    data = PandasDataset.from_long_dataframe(
        df, item_id="item_id", timestamp="time", target="y", freq="h", static_feature_columns=["kind"]
    )
    predictor = ExgatePredictor(fitted(data, stat_exog_list=["kind"], max_steps=2))
    assert [forecast.item_id for forecast in predictor.predict(data)] == ["a", "b"]


def test_categories_with_names_are_refused():
    df, static = frames(waves(), Forecaster(h=8))
    static = pd.DataFrame({"unique_id": [0, 1], "kind": ["x", "z"]})
    forecaster = Forecaster(h=8, stat_exog_list=["kind"], **SMALL, **{**QUICK, "max_steps": 2}).fit(df, static)
    with pytest.raises(ValueError, match="the forecaster knows 'kind' as 'x', but feat_static_cat are numbers"):
        list(ExgatePredictor(forecaster).predict(covariates(8)))


def test_several_series_in_one_entry_are_refused(predictor):
    with pytest.raises(ValueError, match=r"the target of entry 0 has shape \(2, 30\)"):
        list(predictor.predict([{"start": pd.Period("2024-01-01", "h"), "target": np.zeros((2, 30))}]))
    with pytest.raises(ValueError, match="has no value"):
        list(predictor.predict([{"start": pd.Period("2024-01-01", "h"), "target": np.full(30, np.nan)}]))
    with pytest.raises(ValueError, match="nothing was fitted"):
        ExgatePredictor(Forecaster(h=8))


def test_serialized_it_forecasts_the_same(predictor, tmp_path):
    ExgatePredictor(predictor.forecaster, 5).serialize(tmp_path)
    loaded = Predictor.deserialize(tmp_path)
    assert loaded.prediction_length == 5
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    for one, other in zip(predictor.predict(waves()), loaded.predict(waves()), strict=True):
        np.testing.assert_array_equal(one.forecast_array[:, :5], other.forecast_array)
