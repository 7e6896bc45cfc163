"""Tests on the past: each window is forecast from what lay before it, errors by hand, a picture."""

import numpy as np
import pytest

pd = pytest.importorskip("pandas")

from exgate.forecast import Forecaster  # noqa: E402
from exgate.forecast.backtest import cross_validation, evaluate, plot  # noqa: E402


def frame(names=("a", "b"), steps=100):
    ds = pd.date_range("2024-01-01", periods=steps, freq="D")
    return pd.concat(
        pd.DataFrame({"unique_id": name, "ds": ds[: steps - 10 * place], "y": np.arange(steps - 10.0 * place) ** 1.5})
        for place, name in enumerate(names)
    )


def made(model="naive", h=4, **options):
    return Forecaster(model, h=h, input_size=16, **options)


def test_windows_are_forecast_from_what_lies_before_them():
    df = frame()
    answer = cross_validation(made(season=7), df, n_windows=3, step_size=2, val_size=30, level=[80])
    assert list(answer)[:3] == ["unique_id", "ds", "cutoff"]
    assert {"Naive", "Naive-lo-80", "Naive-hi-80", "y"} <= set(answer)
    assert len(answer) == 2 * 3 * 4
    ends = {"a": 100, "b": 90}
    for (name, cutoff), part in answer.groupby(["unique_id", "cutoff"]):
        known = df[(df.unique_id == name) & (df.ds <= cutoff)]
        assert part.Naive.to_numpy() == pytest.approx(known.y.to_numpy()[-7:-3])
        after = df[(df.unique_id == name) & (df.ds > cutoff)][:4]
        assert (part.ds.to_numpy() == after.ds.to_numpy()).all()
        assert part.y.tolist() == after.y.tolist()
        assert len(known) in {ends[name] - 4, ends[name] - 6, ends[name] - 8}


def test_only_the_first_window_is_learnt_from_unless_it_is_to_be_fitted_again():
    df = frame()
    fits = []
    for refit, expected in ((False, [92]), (True, [92, 94, 96]), (2, [92, 96])):
        forecaster = made()
        inner = forecaster.fit

        def fit(df, *rest, inner=inner, **named):
            fits.append((df.unique_id == "a").sum())
            return inner(df, *rest, **named)

        forecaster.fit = fit
        fits.clear()
        cross_validation(forecaster, df, n_windows=3, step_size=2, refit=refit, val_size=30)
        assert fits == expected


def test_rows_that_are_missing_move_nothing():
    df = frame(names=("a",))
    gone = df[~df.ds.isin(df.ds.iloc[[94, 95, 97]])].assign(promo=1.0)
    answer = cross_validation(made(), gone, val_size=30)
    assert answer.cutoff.tolist() == [df.ds.iloc[95]] * 4
    assert answer.ds.tolist() == df.ds.iloc[96:].tolist()
    assert answer.Naive.tolist() == [df.y.iloc[93]] * 4
    assert answer.y.isna().tolist() == [False, True, False, False]
    patched = Forecaster(h=4, input_size=16, patch=4, dim=16, blocks=1, heads=2, max_steps=2, futr_exog_list=["promo"])
    assert cross_validation(patched, gone).PatchXLSTM.notna().all()
    alone = gone.drop(columns="unique_id")
    scored = evaluate(cross_validation(made(), alone, val_size=30, level=[92.5]), alone)
    assert any(str(name).startswith("coverage") for name in scored.index)
    assert scored.Naive.notna().all()


def test_errors_by_hand():
    answer = cross_validation(made(), frame(), val_size=30, level=[80])
    scored = evaluate(answer, frame(), season=1)
    error = (answer.y - answer.Naive).abs()
    assert scored.Naive["mae"] == pytest.approx(error.mean())
    squared = answer.assign(error=(answer.y - answer.Naive) ** 2).groupby("unique_id").error.mean()
    assert scored.Naive["rmse"] == pytest.approx(np.sqrt(squared).mean())
    assert scored.Naive["smape"] == pytest.approx((error / (answer.y.abs() + answer.Naive.abs())).mean())
    inside = (answer.y >= answer["Naive-lo-80"]) & (answer.y <= answer["Naive-hi-80"])
    assert scored.Naive["coverage_level80"] == pytest.approx(inside.mean())
    scale = frame().groupby("unique_id").y.apply(lambda y: y.diff().abs().mean())
    mase = error.groupby(answer.unique_id).mean() / scale
    assert scored.Naive["mase"] == pytest.approx(mase.mean(), rel=0.05)


def test_a_picture_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []

    def save(picture, path):
        drawn.append(picture)
        picture.savefig(path)
        return path

    monkeypatch.setattr("exgate.figure.save", save)
    answer = cross_validation(made(), frame(), n_windows=2, val_size=30, level=[80, 92.5])
    path = plot(frame(), answer.drop(columns="y"), tmp_path / "picture.png")
    assert path.stat().st_size > 10_000
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == [
        "known",
        "Naive",
        "92.5 % interval",
        "80 % interval",
    ]
    assert (drawn[0].get_supylabel(), drawn[0].get_suptitle()) == ("y", "")
    plot(frame(), answer, tmp_path / "picture.png", most=1, label="cars")
    assert (drawn[1].get_supylabel(), drawn[1].get_suptitle()) == ("cars", "1 of 2 series")


def test_covariates_that_are_known_ahead_are_taken_from_the_frame():
    df = frame().assign(promo=lambda rows: np.arange(len(rows)) % 3)
    forecaster = Forecaster(
        h=4, input_size=16, patch=4, dim=16, blocks=1, heads=2, max_steps=5, futr_exog_list=["promo"]
    )
    assert cross_validation(forecaster, df, n_windows=2).PatchXLSTM.notna().all()


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="leave nothing of series 'b', which has 90"):
        cross_validation(made(), frame(), n_windows=23)
    with pytest.raises(ValueError, match="n_windows=0"):
        cross_validation(made(), frame(), n_windows=0)
    answer = cross_validation(made(), frame(), val_size=30)
    for odd in (frame(), answer.drop(columns="y")):
        with pytest.raises(
            ValueError, match=r"evaluate was given the columns .* it needs 'unique_id', 'ds', 'y' and at"
        ):
            evaluate(odd)
    with pytest.raises(ValueError, match="no row with a value of 'y'"):
        evaluate(answer.assign(y=np.nan))
    with pytest.raises(ValueError, match="season is 0"):
        evaluate(answer, frame(), season=0)
