"""Forecasters of data frames: what they answer, that they learn, go on, are saved, and what they refuse."""

import json

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from exgate.forecast import fit  # noqa: E402
from exgate.forecast.forecaster import Forecaster  # noqa: E402
from exgate.forecast.saving import load, save  # noqa: E402

SMALL = {"dim": 16, "blocks": 1, "heads": 2}
QUICK = {"max_steps": 30, "batch_size": 16, "learning_rate": 1e-2, "val_check_steps": 10, "input_size": 32}


def waves(steps=160, names=("a", "b"), begin=0):
    """Hourly waves of 8 hours, one ten times as high as the other and twice as long."""
    rng = np.random.default_rng(0)
    frames = []
    for place, name in enumerate(names):
        time = np.arange(steps * (2 - place % 2))
        y = 10**place * (np.sin(2 * np.pi * (time + begin) / 8) + 5) + 0.01 * rng.normal(size=len(time))
        ds = pd.date_range("2024-01-01", periods=len(time) + begin, freq="h")[begin:]
        frames.append(pd.DataFrame({"unique_id": name, "ds": ds, "y": y}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def fitted():
    return Forecaster(h=8, patch=8, **SMALL, **QUICK).fit(waves())


def test_answers_have_the_names_of_neuralforecast(fitted):
    answer = fitted.predict(level=[80, 90], quantiles=[0.1, 0.55])
    assert list(answer) == [
        "unique_id", "ds", "PatchXLSTM", "PatchXLSTM-lo-80", "PatchXLSTM-hi-80", "PatchXLSTM-lo-90", "PatchXLSTM-hi-90",
        "PatchXLSTM_ql0.1", "PatchXLSTM_ql0.55",
    ]  # fmt: skip
    assert len(answer) == 16
    assert answer.ds[8] == pd.Timestamp("2024-01-01") + pd.Timedelta(hours=160)
    rising = answer[["PatchXLSTM-lo-90", "PatchXLSTM-lo-80", "PatchXLSTM", "PatchXLSTM-hi-80", "PatchXLSTM-hi-90"]]
    assert (np.diff(rising.to_numpy(), axis=1) >= 0).all()
    pd.testing.assert_series_equal(answer["PatchXLSTM_ql0.1"], answer["PatchXLSTM-lo-80"], check_names=False)


def test_any_horizon_begins_alike(fitted):
    longest = fitted.predict(20)
    assert len(longest) == 40
    for h in (1, 8, 13):
        shorter = fitted.predict(h)
        same = longest.groupby("unique_id").head(h).reset_index(drop=True)
        pd.testing.assert_frame_equal(shorter, same, rtol=1e-4)


@pytest.mark.parametrize("model", ["patch_xlstm", "xlstm_time", "lstm_direct", "dlinear"])
def test_it_learns_and_repeats(model):
    options = {"lstm_direct": {"hidden": 32, "layers": 1, "max_steps": 100}, "dlinear": {}}.get(model, SMALL)
    options = options | ({"axis": "time"} if model == "xlstm_time" else {})
    made = Forecaster(model, h=8, **QUICK | options).fit(waves())
    answer = made.predict(level=[80]).merge(waves(200), on=["unique_id", "ds"])
    name = made.alias
    deviation = answer.groupby("unique_id").y.transform("std")
    assert ((answer[name] - answer.y).abs() / deviation).mean() < 0.5
    again = Forecaster(model, h=8, **QUICK | options).fit(waves())
    pd.testing.assert_frame_equal(again.predict(), made.predict())


def test_updates_are_forecasts_of_what_is_known_then(fitted, tmp_path):
    whole = waves()
    begun = load(save(fitted, tmp_path))
    for h in range(12):
        y = 10 * (np.sin(2 * np.pi * (160 + h) / 8) + 5)
        new = pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=161 + h, freq="h")[-1:], "y": [y]})
        begun.update(new.assign(unique_id="b"))
        whole = pd.concat([whole, new.assign(unique_id="b")])
        if h == 5:
            begun = load(save(begun, tmp_path))
    after, before = begun.predict(), fitted.predict()
    is_b = after.unique_id == "b"
    assert after.ds[is_b].iloc[0] == pd.Timestamp("2024-01-01") + pd.Timedelta(hours=172)
    pd.testing.assert_frame_equal(after[~is_b], before[~is_b])
    fresh = fitted.predict(df=whole)
    ours, theirs = after.PatchXLSTM[is_b], fresh.PatchXLSTM[is_b]
    assert (ours - theirs).abs().max() < 0.1 * theirs.std(), "they differ by their scale alone: see test_online.py"


def test_memory_does_not_grow(fitted, tmp_path):
    made = load(save(fitted, tmp_path))
    sizes = []
    for block in range(12):
        times = pd.date_range("2024-01-01", periods=320 + 40 * (block + 1), freq="h")[-40:]
        made.update(pd.DataFrame({"unique_id": "a", "ds": times, "y": np.sin(np.arange(40.0))}))
        sizes.append(len(made._panel.values[0]))
    assert max(sizes) < 6 * 32
    assert made.predict().ds[0] == pd.Timestamp("2024-01-01") + pd.Timedelta(hours=800)


def test_saved_and_opened(fitted, tmp_path):
    again = load(save(fitted, tmp_path / "here"))
    pd.testing.assert_frame_equal(again.predict(level=[95]), fitted.predict(level=[95]))
    assert again.history == fitted.history
    assert not list((tmp_path / "here").glob("*.pkl"))
    (tmp_path / "here" / "series.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"series.safetensors is damaged"):
        load(tmp_path / "here")
    (tmp_path / "here" / "forecaster.json").unlink()
    with pytest.raises(ValueError, match=r"forecaster.json is missing"):
        load(tmp_path / "here")


def shops():
    """Sales that jump with a promotion, known ahead, and differ by kind of shop."""
    rng = np.random.default_rng(1)
    frames = []
    for place in range(4):
        promo = (rng.random(150) < 0.3).astype(float)
        y = 10.0 + 10 * promo + rng.normal(size=150)
        ds = pd.date_range("2024-01-01", periods=150, freq="D", tz="Europe/Vienna")
        frames.append(pd.DataFrame({"shop": place, "day": ds, "sales": y, "promo": promo, "wind": rng.random(150)}))
    return pd.concat(frames), pd.DataFrame(
        {"shop": range(4), "kind": ["x", "y", "x", "y"], "size": [1.0, 2.0, 3.0, np.nan]}
    )


def test_covariates_and_their_saving(tmp_path):
    df, static = shops()
    past, future = df.groupby("shop").head(140), df.groupby("shop").tail(10)
    made = Forecaster(
        h=10, patch=5, futr_exog_list=["promo"], hist_exog_list=["wind"], stat_exog_list=["kind", "size"],
        id_col="shop", time_col="day", target_col="sales", **SMALL, **QUICK | {"max_steps": 150},
    )  # fmt: skip
    made.fit(past, static, val_size=10)
    answer = made.predict(futr_df=future[["shop", "day", "promo"]])
    both = answer.merge(future, on=["shop", "day"])
    means = both.groupby("promo").PatchXLSTM.mean()
    assert means[1.0] - means[0.0] > 5, "it has learnt what a promotion does"
    again = load(save(made, tmp_path))
    pd.testing.assert_frame_equal(again.predict(futr_df=future), answer)
    with pytest.raises(ValueError, match="'promo' are known ahead: give futr_df with 10 steps"):
        made.predict()
    with pytest.raises(ValueError, match="futr_df lacks 1 of the 10 steps of series 0"):
        made.predict(futr_df=future.iloc[1:])
    with pytest.raises(ValueError, match="no rows of series 0"):
        made.predict(futr_df=future[future["shop"] > 0])
    with pytest.raises(ValueError, match="static_df has no row for 9"):
        made.predict(df=past[past.shop == 0].assign(shop=9), futr_df=future[future.shop == 0].assign(shop=9))
    odd = pd.DataFrame({"shop": [0, 1, 2, 3], "kind": ["never seen"] * 4, "size": [0.0] * 4})
    assert made.predict(df=past, static_df=odd, futr_df=future).PatchXLSTM.notna().all()


def test_small_variations_around_large_numbers_are_not_lost():
    made = Forecaster(h=8, patch=8, **SMALL, **QUICK)
    plain = made.fit(waves()).predict(level=[80])
    far = made.fit(waves().assign(y=lambda rows: rows.y + 1e9)).predict(level=[80])
    columns = ["PatchXLSTM", "PatchXLSTM-lo-80"]
    np.testing.assert_allclose(far[columns].to_numpy() - 1e9, plain[columns].to_numpy(), atol=0.1)


@pytest.mark.parametrize("model", ["ridge", "patch_xlstm", "naive"])
def test_an_outlier_far_in_the_past_does_no_harm(model):
    plain = waves(names=("a",))
    far = plain.assign(y=plain.y.where(plain.index != 3, 1e9))
    options = {"patch": 8, **SMALL} if model == "patch_xlstm" else {}
    made = Forecaster(model, h=8, **QUICK, **options).fit(plain)
    pd.testing.assert_frame_equal(made.predict(df=far), made.predict())
    if model == "naive":
        assert made.predict()["Naive"].tolist() == [plain.y.iloc[-1]] * 8, "what is repeated is not rounded"


def test_conformal_intervals_hold_on_noise():
    rng = np.random.default_rng(0)
    ds = pd.date_range("2024-01-01", periods=600, freq="h")
    df = pd.concat(pd.DataFrame({"unique_id": name, "ds": ds, "y": rng.gumbel(size=600)}) for name in range(6))
    made = Forecaster("dlinear", h=4, **QUICK).fit(df.groupby("unique_id").head(500), val_size=100)
    hits = []
    for end in range(500, 596, 4):
        answer = made.predict(df=df.groupby("unique_id").head(end), level=[80])
        truth = df.groupby("unique_id").head(end + 4).groupby("unique_id").tail(4)
        y = answer.merge(truth, on=["unique_id", "ds"])
        hits.append(((y.y >= y["DLinear-lo-80"]) & (y.y <= y["DLinear-hi-80"])).mean())
    assert np.mean(hits) == pytest.approx(0.8, abs=0.06)


def test_what_is_wrong_is_said(fitted, tmp_path):
    for arguments, words in (
        ({"h": 0}, "h is 0"),
        ({"h": 2.5}, "h is 2.5; it should be a whole number"),
        ({"h": 1, "input_size": 0}, "input_size is 0; it should be a whole number of at least 1"),
        ({"h": 1, "input_size": -3}, "input_size is -3"),
        ({"h": 1, "max_steps": -1}, "max_steps is -1; it should be a whole number of at least 0"),
        ({"h": 1, "batch_size": 0}, "batch_size is 0"),
        ({"h": 1, "val_check_steps": 0}, "val_check_steps is 0"),
        ({"h": 1, "early_stop_patience_steps": -1}, "early_stop_patience_steps is -1"),
        ({"h": 1, "past": 3}, "patch_xlstm has no option 'past'"),
        ({"h": 1, "hist_exog_list": "wind"}, r"hist_exog_list is 'wind'; it should be a list: \['wind'\]"),
        ({"h": 1, "model": "patch_lstm"}, "unknown model 'patch_lstm'. Did you mean 'patch_xlstm'"),
        ({"h": 1, "widht": 8}, "patch_xlstm has no option 'widht'; it has"),
        ({"h": 1, "model": "dlinear", "intervals": "quantiles"}, "dlinear has 'conformal': it forecasts no quantiles"),
        ({"h": 1, "model": "dlinear", "futr_exog_list": ["x"]}, "dlinear has no covariates"),
        ({"h": 1, "quantiles": (0.9, 0.1)}, "quantiles are"),
    ):
        with pytest.raises(ValueError, match=words):
            Forecaster(**arguments)
    with pytest.raises(ValueError, match="nothing was fitted"):
        Forecaster(h=1).predict()
    with pytest.raises(ValueError, match="nothing was fitted"):
        save(Forecaster(h=1), tmp_path)
    with pytest.raises(ValueError, match=r"quantile 0\.005 is outside of those that were learnt, 0\.025 to 0\.975"):
        fitted.predict(level=[99])
    with pytest.raises(ValueError, match="level is 0"):
        fitted.predict(level=[0])
    with pytest.raises(ValueError, match=r"rows are not after what is known: 'a'"):
        fitted.update(waves().tail(3).assign(unique_id="a"))
    with pytest.raises(ValueError, match=r"the new rows have no column 'unique_id'; there are 2 series"):
        fitted.update(pd.DataFrame({"ds": pd.date_range("2025-01-01", periods=2, freq="h"), "y": [1.0, 2.0]}))
    for odd in (pd.date_range("2025-01-01", periods=2, freq="h", tz="UTC"), [1, 2]):
        with pytest.raises(ValueError, match="They should be of one kind"):
            fitted.update(pd.DataFrame({"unique_id": "a", "ds": odd, "y": [1.0, 2.0]}))
    for val_size in (-1, 3, 1000):
        with pytest.raises(ValueError, match=f"val_size is {val_size}; it should be 0, or from h=8"):
            Forecaster("naive", h=8, **QUICK).fit(waves(), val_size=val_size)
    with pytest.raises(ValueError, match=r"no window of 195 \+ 8 steps fits before the last 0 of any series"):
        Forecaster("ridge", h=8, input_size=195).fit(waves(100, names=("b",)), val_size=0)
    with pytest.raises(ValueError, match="'c' was not fitted"):
        fitted.update(waves(names=("c",)))
    with pytest.raises(ValueError, match=r"no window of 2 \+ 7 steps fits before the last 0 .* longest has 8"):
        Forecaster(h=7, max_steps=5).fit(waves(8, names=("b",)).head(8))
    gaps = waves(40, names=("b",))
    gaps.loc[gaps.index % 8 != 0, "y"] = np.nan
    with pytest.raises(ValueError, match="Two values of a window should be known"):
        Forecaster(h=7, max_steps=5, input_size=4).fit(gaps)
    with pytest.raises(ValueError, match="no window of 30"):
        Forecaster(h=400, **SMALL, **QUICK).fit(waves())
    with pytest.raises(ValueError, match="conformal intervals need 10 windows"):
        Forecaster("dlinear", h=8, **QUICK).fit(waves(), val_size=8)


@pytest.mark.parametrize("steps", [9, 12])
def test_series_of_few_steps_are_forecast(steps):
    made = Forecaster(h=7, **SMALL, max_steps=5).fit(waves(steps, names=("b",)).head(steps))
    assert made.predict().PatchXLSTM.notna().all()


@pytest.mark.parametrize("model", ["ridge", "patch_xlstm"])
def test_one_step_is_read(model):
    df, options = waves(names=("b",)), SMALL if model == "patch_xlstm" else {}
    answer = Forecaster(model, h=4, input_size=1, max_steps=0, **options).fit(df).predict()
    assert answer.iloc[:, -1].notna().all()
    if model == "ridge":
        assert answer.Ridge.to_numpy() == pytest.approx(df.y.iloc[-1])


def test_where_the_start_is_best_it_is_learnt_anew_for_no_step():
    options = {"h": 4, "random_seed": 3, **SMALL}
    df = waves(60, names=("b",)).tail(60)
    trained = Forecaster(**options, max_steps=5, learning_rate=0.3).fit(df, val_size=20)
    assert trained.history.best == 0
    at_once = Forecaster(**options, max_steps=0).fit(df, val_size=20)
    pd.testing.assert_frame_equal(trained.predict(), at_once.predict())


def test_levels_and_quantiles_may_be_one_number(fitted):
    pd.testing.assert_frame_equal(fitted.predict(level=80, quantiles=0.3), fitted.predict(level=[80], quantiles=[0.3]))


def test_files_hold_text_and_tensors_alone(fitted, tmp_path):
    folder = save(fitted, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "forecaster.json", "model.safetensors", "series.safetensors",
    ]  # fmt: skip
    assert json.loads((folder / "forecaster.json").read_text())["ids"] == ["a", "b"]


def test_what_fails_leaves_what_was_there():
    made = Forecaster("dlinear", h=8, **QUICK).fit(waves())
    expected = made.predict(level=[80])
    with pytest.raises(ValueError, match="conformal intervals need 10 windows"):
        made.fit(waves(steps=120), val_size=8)
    pd.testing.assert_frame_equal(made.predict(level=[80]), expected)
    made.cross_validation(waves())
    pd.testing.assert_frame_equal(made.predict(level=[80]), expected)


def test_updates_of_text_in_another_zone_of_nothing_and_of_missing_values():
    ds = pd.date_range("2024-03-30", periods=100, freq="h", tz="Europe/Vienna")
    made = Forecaster(h=8, patch=8, **SMALL, **QUICK).fit(pd.DataFrame({"ds": ds, "y": np.sin(np.arange(100.0))}))
    made.update(pd.DataFrame({"ds": [], "y": []}))
    made.update(pd.DataFrame({"ds": (ds[-3:] + pd.Timedelta("3h")).tz_convert("UTC"), "y": [0.1, np.nan, np.nan]}))
    made.update(pd.DataFrame({"ds": ["2024-04-03 12:00+02:00"], "y": [np.nan]}))
    answer = made.predict()
    assert str(answer.ds[0]) == "2024-04-03 13:00:00+02:00"
    assert answer.PatchXLSTM.notna().all()
    assert np.isnan(made._panel.values[0][-9:]).sum() == 7


def test_names_categories_and_zones_survive_saving(tmp_path):
    ends = pd.date_range("2024-01-31", periods=60, freq="ME", tz="Asia/Tokyo")
    parts = [pd.DataFrame({"unique_id": np.int64(name), "ds": ends, "y": np.arange(60.0) * name}) for name in (1, 2)]
    df = pd.concat(parts)
    static = pd.DataFrame(
        {"unique_id": [1, 2], "kind": pd.Categorical([10, 20]), "size": [0.1, np.nan], "other": [1, 2]}
    )
    made = Forecaster(h=np.int64(6), patch=4, stat_exog_list=["kind", "size"], **SMALL, **QUICK).fit(
        df, static, val_size=6
    )
    expected = made.predict(level=[80])
    again = load(save(made, tmp_path))
    pd.testing.assert_frame_equal(again.predict(level=[80]), expected)
    assert again.input_size == 32
    again.update(pd.DataFrame({"unique_id": [2], "ds": expected.ds[6:7], "y": [1.0]}))
    with pytest.raises(ValueError, match=r"name 1\.5 is a float, which a file cannot keep"):
        save(Forecaster("naive", h=2, **QUICK).fit(df.assign(unique_id=1.5).head(60), val_size=0), tmp_path)


@pytest.mark.parametrize(("steps", "times"), [(60, 2), (250, 1)])
def test_short_series_are_learnt_anew_from_everything(monkeypatch, steps, times):
    calls, train = [], fit.train

    def watched(*words, validation, budget, **options):
        calls.append((validation, budget, train(*words, validation=validation, budget=budget, **options)))
        return calls[-1][2]

    monkeypatch.setattr(fit, "train", watched)
    made = Forecaster("dlinear", h=4, **QUICK).fit(waves(steps, names=("b",)), val_size=20)
    assert [validation for validation, *_ in calls] == [20, 0][:times]
    assert made.history is calls[0][2]
    assert calls[-1][1].steps == (made.history.best if times == 2 else 30)
    assert calls[0][1].median == (times == 2), "its quantiles are not used then"
    answer = made.predict(level=[80])
    middle = (answer["DLinear-lo-80"] + answer["DLinear-hi-80"]) / 2
    assert (times == 2) == np.allclose(middle, answer["DLinear"], rtol=1e-5), "errors count on both sides alike"


def coupled(steps=200):
    """Two series over the same hours, of which the second says what the first is four hours later."""
    lead = np.random.default_rng(0).normal(size=steps + 4).cumsum()
    ds = pd.date_range("2024-01-01", periods=steps, freq="h")
    frames = [("a", lead[:steps]), ("b", 100 + 5 * lead[4:])]
    return pd.concat([pd.DataFrame({"unique_id": name, "ds": ds, "y": y}) for name, y in frames], ignore_index=True)


def test_series_are_read_together(tmp_path):
    df, few = coupled(240), {"h": 4, **QUICK, "max_steps": 80}
    options = {"patch": 4, **SMALL}
    errors = {}
    for multivariate in (False, True):
        made = Forecaster(multivariate=multivariate, **few, **options)
        tested = made.cross_validation(df, n_windows=10, step_size=4)
        errors[multivariate] = (tested.PatchXLSTM - tested.y)[tested.unique_id == "a"].abs().mean()
    assert errors[True] < 0.8 * errors[False], errors
    begun = Forecaster(multivariate=True, **few, **options).fit(df[df.ds < "2024-01-10"])
    begun = load(save(begun, tmp_path))
    known = begun.predict()
    for day in pd.date_range("2024-01-10", periods=3, freq="h"):
        new = df[df.ds == day]
        begun.update(new if day.hour != 1 else new[new.unique_id == "b"])
        hidden = df[(df.ds <= day) & ~((df.ds == "2024-01-10 01:00") & (df.unique_id == "a"))]
        pd.testing.assert_frame_equal(begun.predict(6), begun.predict(6, df=hidden), rtol=2e-2, atol=0.05)
    assert not known.equals(begun.predict())
    with pytest.raises(ValueError, match=r"reads the series .* together; df has 'a'"):
        begun.predict(df=df[df.unique_id == "a"])


@pytest.mark.parametrize("model", ["xlstm_time", "lstm_direct", "ridge"])
def test_other_networks_read_series_together(model):
    options = {"xlstm_time": SMALL, "lstm_direct": {"hidden": 16}}.get(model, {})
    df = coupled(100)
    made = Forecaster(model, h=4, multivariate=True, **QUICK, **options).fit(
        df[(df.unique_id == "a") | (df.ds.dt.day > 1)]
    )
    answer = made.predict(level=[80])
    assert answer.groupby("unique_id").size().tolist() == [4, 4]
    assert (answer[answer.unique_id == "b"][made.alias] > 50).all(), "each in its own units"
    assert made.network.module.config.__dict__.get("channels", 2) == 2


def test_series_that_cannot_be_read_together():
    with pytest.raises(ValueError, match="covariates are of each series"):
        Forecaster(h=4, multivariate=True, hist_exog_list=["x"])
    df = coupled(60)
    df.loc[df.unique_id == "b", "ds"] += pd.Timedelta(minutes=30)
    with pytest.raises(ValueError, match=r"series 'b' has the time .*, which lies between those of other series"):
        Forecaster(h=4, multivariate=True, **QUICK).fit(df)


def test_a_short_series_does_not_widen_the_intervals_of_others():
    rng = np.random.default_rng(0)

    def level(name, steps):
        ds = pd.date_range("2024-01-01", periods=steps, freq="h")
        return pd.DataFrame({"unique_id": name, "ds": ds, "y": 1e6 + 1e5 * rng.normal(size=steps)})

    long = level("a", 400)
    widths = []
    for df in (long, pd.concat([long, level("b", 24)])):
        answer = Forecaster("ridge", h=4, **QUICK).fit(df).predict(level=[80])
        answer = answer[answer.unique_id == "a"]
        widths.append((answer["Ridge-hi-80"] - answer["Ridge-lo-80"]).mean())
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_series_that_begin_later_count_in_their_own_units():
    df = coupled(200)
    df.loc[df.unique_id == "b", "y"] *= 1e6
    df = df[(df.unique_id == "a") | (df.ds > "2024-01-05")]
    for model, options in (("patch_xlstm", SMALL), ("lstm_direct", {"hidden": 16})):
        made = Forecaster(model, h=4, multivariate=True, **QUICK, **options).fit(df)
        assert max(made.history.training) < 10
    tested = made.cross_validation(df[(df.unique_id == "a") | (df.ds < "2024-01-09")], n_windows=2)
    assert tested.groupby("cutoff").size().tolist() == [8, 8], "one cutoff for all"
    assert (tested.ds > tested.cutoff).all()
