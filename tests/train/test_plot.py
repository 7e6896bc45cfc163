"""The picture of a run."""

from __future__ import annotations

import itertools
import sys

import pytest

from exgate.train import plot

ROWS = [{"step": i, "tokens": 1000 * i, "loss": 3 / i, "bits_per_byte": 4 / i} for i in range(1, 40)]
ROWS.append({"step": 39, "tokens": 39000, "validation_loss": 0.2, "validation_bits_per_byte": 0.3})


def test_draw(tmp_path):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    for runs in ({"one": ROWS}, {"one": ROWS, "two": ROWS[:20]}, {"empty": []}):
        file = plot.draw(runs, tmp_path / "loss.png", title="a title")
        assert file.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


def test_draw_shows_what_it_is_given(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    from matplotlib.figure import Figure

    seen = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **_: (seen.append(figure), file.write_bytes(b""))[0])
    plot.draw({"one": ROWS}, tmp_path / "loss.png")
    plot.draw({"one": [{k: v for k, v in row.items() if "bits" not in k} for row in ROWS]}, tmp_path / "loss.png")
    bits, nats = (figure.axes[0] for figure in seen)
    assert bits.get_ylabel() == "bits per byte"
    assert nats.get_ylabel() == "loss (nats per token)"
    raw, smooth, held_out = bits.lines
    assert raw.get_ydata() == pytest.approx([4 / i for i in range(1, 40)])
    assert len(smooth.get_ydata()) == 39
    assert (held_out.get_xdata()[0], held_out.get_ydata()[0]) == (39000, 0.3)
    assert [text.get_text() for text in bits.get_legend().get_texts()] == ["one, training", "one, validation"]


def test_labels_do_not_cover_each_other(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    from matplotlib.figure import Figure

    boxes = []

    def look(figure, file, **_):
        figure.draw_without_rendering()
        boxes.extend(text.get_window_extent() for text in figure.axes[0].texts)
        file.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", look)
    others = [[*ROWS[:-1], ROWS[-1] | {"validation_bits_per_byte": value}] for value in (0.36, 0.31, 2.0)]
    plot.draw(dict(zip("abcd", [ROWS, *others], strict=True)), tmp_path / "loss.png")
    assert len(boxes) == 4
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))


def test_draw_attention(tmp_path):
    pytest.importorskip("matplotlib", reason="the package 'matplotlib' (extra 'plot') is not installed")
    weights = [[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]]
    file = plot.draw_attention(weights, ["ein", "Hund", "(end)"], ["a", "dog"], tmp_path / "map.png", title="a title")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]
    with pytest.raises(ValueError, match=r"weights are 2 by 3, but there are 1 target and 3 source tokens"):
        plot.draw_attention(weights, ["ein", "Hund", "(end)"], ["a"], tmp_path / "map.png")


def test_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ImportError, match=r"needs the package 'matplotlib'.*exgate\[plot\]"):
        plot.draw({}, tmp_path / "loss.png")


def test_smooth_and_human():
    line = [3.0 - 0.1 * i for i in range(30)]
    assert plot.smooth(line, 0.2) == pytest.approx(line), "a line stays where it is: no lag"
    assert plot.smooth([0.0, 3.0, 0.0, 3.0, 0.0], 0.5) == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    assert plot.smooth([]) == []
    assert [plot.human(v) for v in (0, 950, 1500, 2_500_000, 3e9)] == ["0", "950", "1.5k", "2.5M", "3B"]
