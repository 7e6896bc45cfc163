"""PatchXLSTM inside neuralforecast: it learns, tests on the past, has intervals and covariates, is saved."""

import numpy as np
import pytest

pytest.importorskip("neuralforecast", reason="tests/adapters/run.sh runs it, with neuralforecast")

import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import (
    MSE,
    DistributionLoss,
    HuberMQLoss,
    IQLoss,
    MQLoss,
    QuantileLoss,
)

from exgate.forecast.adapters.neuralforecast import PatchXLSTM
from exgate.models import patch_xlstm

QUIET = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
SMALL = {"dim": 16, "blocks": 1, "heads": 2, "max_steps": 60, "windows_batch_size": 32, "learning_rate": 1e-2}
PLAIN = ["unique_id", "ds", "y"]


def waves():
    """Hourly waves of 8 hours, one ten times as high as the other and half as long, with what leads to them."""
    rng, frames = np.random.default_rng(0), []
    for place, name in enumerate("ab"):
        time = np.arange(200 * (2 - place))
        frames.append(
            pd.DataFrame({
                "unique_id": name,
                "ds": pd.date_range("2024-01-01", periods=len(time), freq="h"),
                "y": 10**place * (np.sin(2 * np.pi * time / 8) + 5) + 0.01 * rng.normal(size=len(time)),
                "before": np.cos(2 * np.pi * time / 8),
                "ahead": np.sin(2 * np.pi * time / 8),
                "third": time % 3,
            })
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def made(h=5, **options):
    return PatchXLSTM(h=h, input_size=32, **{**SMALL, **QUIET, **options})


def relative(answer, column="PatchXLSTM"):
    """The largest error, as a share of what was forecast."""
    return ((answer[column] - answer.y) / answer.y).abs().max()


def test_its_network_is_that_of_exgate():
    assert isinstance(made().network, patch_xlstm.PatchXLSTM)
    config = made(patch=16, memory=1, pattern="m").network.config
    assert config == patch_xlstm.Config(patch=16, memory=1, pattern="m", dim=16, blocks=1, heads=2, quantiles=(0.5,))


@pytest.mark.parametrize(
    "h, options",
    [
        (5, {}),
        (5, {"patch": 16}),
        (5, {"memory": 0}),
        (20, {"patch": 8}),
        (8, {"patch": 8}),
        (5, {"loss": MSE()}),
        (5, {"pattern": "m"}),
    ],
)
def test_it_learns_waves(h, options):
    nf = NeuralForecast(models=[made(h=h, **options)], freq="h")
    answer = nf.cross_validation(waves()[PLAIN], n_windows=2, step_size=h, val_size=h)
    assert len(answer) == 2 * 2 * h
    assert relative(answer) < 0.1
    assert len(nf.predict()) == 2 * h


def test_a_longer_horizon_than_it_was_trained_for():
    nf = NeuralForecast(models=[made()], freq="h")
    nf.fit(waves()[PLAIN])
    assert len(nf.predict(h=12)) == 24


@pytest.mark.parametrize("loss", [MQLoss(level=[80, 90]), MQLoss(quantiles=[0.9, 0.05, 0.5]), HuberMQLoss(level=[80])])
def test_quantiles_rise_in_the_order_of_their_levels(loss):
    nf = NeuralForecast(models=[made(loss=loss)], freq="h")
    nf.fit(waves()[PLAIN])
    answer = nf.predict()
    names = [f"PatchXLSTM{name}" for name in loss.output_names]
    assert set(names) <= set(answer)
    rising = [names[place] for place in loss.quantiles.argsort()]
    assert (np.diff(answer[rising].to_numpy(), axis=1) >= 0).all()
    assert (answer[rising[-1]] > answer[rising[0]]).any()


@pytest.mark.parametrize("loss", [QuantileLoss(0.3), IQLoss()])
def test_other_losses_of_one_forecast(loss):
    nf = NeuralForecast(models=[made(loss=loss, max_steps=3)], freq="h")
    nf.fit(waves()[PLAIN])
    assert np.isfinite(nf.predict().iloc[:, 2]).all()


def test_a_distribution_is_refused():
    with pytest.raises(ValueError, match="DistributionLoss asks for 2 numbers of each step"):
        made(loss=DistributionLoss("Normal", level=[80]))


def test_covariates_of_every_kind():
    options = {
        "hist_exog_list": ["before"], "futr_exog_list": ["ahead", "third"], "stat_exog_list": ["size"],
        "cat_exog_list": ["third"], "categorical_cardinalities": {"third": 3},
    }  # fmt: skip
    df, static = waves(), pd.DataFrame({"unique_id": ["a", "b"], "size": [0.0, 1.0]})
    nf = NeuralForecast(models=[made(**options)], freq="h")
    answer = nf.cross_validation(df, static_df=static, n_windows=1, val_size=5)
    assert relative(answer) < 0.1
    config = nf.models[0].network.config
    assert (config.past, config.static) == (1, 1)
    assert config.future > 2, "the category is embedded"
    future = nf.make_future_dataframe().assign(ahead=0.0, third=0)
    assert len(nf.predict(futr_df=future)) == 10


def test_what_is_known_ahead_is_used():
    """Steps that only a covariate tells of."""
    df = waves()[PLAIN]
    rng = np.random.default_rng(1)
    df["ahead"] = rng.integers(0, 2, len(df)).astype(float)
    df["y"] = 10 + 5 * df["ahead"]
    nf = NeuralForecast(models=[made(futr_exog_list=["ahead"], max_steps=200)], freq="h")
    assert relative(nf.cross_validation(df, n_windows=1)) < 0.1


def test_missing_values_and_padding_are_missing_to_the_network():
    model = made()
    model.eval()
    y = torch.randn(3, 32, 1)
    mask = torch.ones_like(y)
    mask[:, :9] = 0
    windows = {"insample_mask": mask, "hist_exog": None, "futr_exog": None, "stat_exog": None}
    with torch.no_grad():
        one = model({**windows, "insample_y": torch.where(mask == 0, 0.0, y)})
        other = model({**windows, "insample_y": torch.where(mask == 0, 1e3, y)})
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_short_series_and_gaps():
    df = waves()[PLAIN]
    df = df[(df.unique_id == "a") | (df.ds >= df.ds.max() - pd.Timedelta(hours=200 + 12))]
    df["available_mask"] = (df.index % 11 > 0).astype(float)
    nf = NeuralForecast(models=[made(start_padding_enabled=True)], freq="h")
    nf.fit(df.assign(y=df.y.where(df.available_mask == 1, 0.0)))
    assert np.isfinite(nf.predict()["PatchXLSTM"]).all()


def test_saved_and_loaded_it_forecasts_the_same(tmp_path):
    nf = NeuralForecast(models=[made(loss=MQLoss(level=[80])), made(patch=4, alias="short")], freq="h")
    nf.fit(waves()[PLAIN])
    nf.save(str(tmp_path / "saved"))
    loaded = NeuralForecast.load(str(tmp_path / "saved"))
    ours = {"PatchXLSTM-median", "PatchXLSTM-lo-80", "short"}
    assert ours <= set(nf.predict())
    pd.testing.assert_frame_equal(loaded.predict()[sorted(ours)], nf.predict()[sorted(ours)])
