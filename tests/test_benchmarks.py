"""The page of benchmarks says what the committed numbers say: nothing is measured here, and no peer is needed."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest

from benchmarks import figures, limits, plots, report, tables, timing
from benchmarks.figures import Figure

# What is to be reached, and a piece of the lines that say it.
ROWS = {
    "sLSTM cell forward / `torch.nn.LSTM`": 1,
    "sLSTM cell forward+backward / `torch.nn.LSTM`": 1,
    "the same at H=256, B=32": 4,
    "sLSTM cell forward / `xlstm`": 1,
    "sLSTM cell forward+backward / `xlstm`": 1,
    "the same at T=1024": 2,
    "sLSTM layer with its dense input product / `torch.nn.LSTM`": 2,
    "our LSTM / `torch.nn.LSTM`, B = 1": 2,
    "our LSTM / `torch.nn.LSTM`, B >= 8": 2,
    "share of GEMM limit, sLSTM H=1024, B >= 8": 2,
    "mLSTM forward / native_custbw": 1,
    "mLSTM forward / SDPA": 3,
    "mLSTM forward+backward / native_custbw": 1,
    "mLSTM peak memory / native_custbw": 1,
    "mLSTM share of GEMM limit": 2,
    "bf16 mLSTM / own float32": 2,
    "LM training tokens/s / `transformers` xLSTM": 2,
    "LM prefill tokens/s / `transformers` xLSTM": 2,
    "LM decode, batch 1 / `transformers` xLSTM": 1,
    "LM decode, batch 1, share of memory limit": 1,
    "bf16 decode / own float32": 1,
    "int8 decode / own float32": 1,
    "two threads / one thread, sLSTM and mLSTM": 2,
}


def test_every_row_is_there_and_measured():
    results = timing.load()
    lines = figures.figures(results)
    for piece, count in ROWS.items():
        assert sum(line.what.startswith(piece) for line in lines) == count, piece
    assert sum(ROWS.values()) == len(lines)
    without = {line.what.split(" / ")[0] for line in lines if not line.values}
    compact = any("ours bf16" in found for found in results["decode"]["cases"].values())
    assert without == (set() if compact else {"bf16 decode", "int8 decode"})


def test_rows_without_results_say_so():
    lines = figures.figures({})
    assert len(lines) == sum(ROWS.values())
    assert {line.verdict for line in lines} == {"**not measured**"}


def test_the_page_is_what_the_results_say():
    text = report.PAGE.read_text(encoding="utf-8")
    results = timing.load()
    assert set(results) == set(tables.PARTS)
    assert report.page(text, results) == text, "run python -m benchmarks.report"


def test_a_page_without_a_place_for_a_part_is_refused():
    with pytest.raises(ValueError, match="has no part '<!-- start -->'"):
        report.page("<!-- figures --><!-- end of figures -->", {"start": timing.load()["start"]})


def test_plots_are_drawn_from_the_results(tmp_path):
    pytest.importorskip("matplotlib")
    paths = plots.draw(timing.load(), tmp_path)
    linked = set(re.findall(r"\(img/(benchmarks-[\w-]+\.svg)\)", report.PAGE.read_text(encoding="utf-8")))
    assert {path.name for path in paths} == linked
    for path in paths:
        assert path.read_text(encoding="utf-8").count("<path") > 20
        assert (report.PAGE.parent / "img" / path.name).exists()


def test_a_figure_is_as_good_as_its_worst_case():
    assert Figure("", {"a": 3.1, "b": 6.0}, 3, 6).verdict == "met"
    assert Figure("", {"a": 6.0, "b": 7.0}, 3, 6).verdict == "aim reached"
    missed = Figure("speed", {"a": 2.9, "b": 6.0}, 3, 6)
    assert missed.row() == ["speed", "2.90x (a)", "6.00x (b)", "3x", "6x", "**missed** in 1 of 2"]
    assert Figure("", {"a": 0.6}, 0.7, 0.5, lower=True).verdict == "met"
    memory = Figure("memory", {"a": 0.4, "b": 0.8}, 0.7, 0.5, lower=True)
    assert memory.row() == ["memory", "0.80x (b)", "0.40x (a)", "at most 0.7x", "at most 0.5x", "**missed** in 1 of 2"]


def test_ratios_are_of_medians_where_both_ran():
    cases = {
        "1": {"forward": {"cpu": {"median": 2.0}, "peer": {"median": 5.0}}},
        "2": {"forward": {"cpu": {"median": 2.0}}},
    }
    assert figures.ratios(cases, "forward", "cpu", "peer") == {"1": 2.5}


def test_slope_is_the_exponent():
    sizes = [256, 1024, 4096]
    assert tables.slope(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert tables.slope(sizes, [7.0] * 3) == pytest.approx(0, abs=1e-12)
    assert math.isnan(tables.slope([256], [1.0]))


def test_operations_are_counted_as_the_kernels_do_them():
    # One head, one step: four gates, a product and a sum per weight forward; two such products backward.
    assert limits.slstm(8, 1, 1, heads=1) == {"forward": 4 * 2 * 8 * 8, "both": 3 * 4 * 2 * 8 * 8}
    one = limits.mlstm(1, 1, 128, heads=1)
    assert one["forward"] == 4 * 128**2 + 32 * 2 * 128
    assert limits.mlstm(2, 8, 128, heads=4)["both"] == 64 * one["both"]


def test_share_of_memory_counts_weights_once_and_states_per_row():
    models = {"small": {"weight_bytes": {"ours": 100e6}, "state_bytes": 5e6}}
    part = {"limits": {"read": 10.0}, "models": models, "cases": {"small, B=4, prompt 9": {"ours": {"median": 28.0}}}}
    assert figures.least(part, "small, B=4, prompt 9", "ours") == pytest.approx(14.0)
    assert figures.share(part, "small, B=4, prompt 9", "ours") == pytest.approx(50.0)


def test_contenders_take_turns_and_slow_ones_are_called_once(monkeypatch):
    called, clock = [], [0.0]

    def takes(name: str, seconds: float):
        called.append(name)
        clock[0] += seconds

    monkeypatch.setattr(timing, "SLOW", 0.004)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    calls = {"quick": lambda: takes("quick", 0.0005), "slow": lambda: takes("slow", 0.01)}
    found = timing.side_by_side(calls, seconds=0.01, rounds=5)
    assert called.count("slow") == 1
    assert found["slow"]["rounds"] == 0
    assert found["slow"]["median"] == pytest.approx(10)
    assert found["quick"]["rounds"] == 5
    assert found["quick"]["min"] == found["quick"]["max"] == pytest.approx(0.5)
