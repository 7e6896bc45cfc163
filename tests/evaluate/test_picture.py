"""The pictures of the suites: lines, and bars where a line would be a point; each name keeps its colour."""

import pytest

from exgate.evaluate import picture

pytest.importorskip("matplotlib", reason="pictures need the extra `plot`")


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    figures = []
    save = picture.save
    monkeypatch.setattr(picture, "save", lambda figure, path: (figures.append(figure), save(figure, path))[1])

    def draw(panels, **options):
        path = picture.curves(panels, tmp_path / "picture.png", x="length", y="accuracy", **options)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
        return figures.pop().axes

    draw.figures = figures
    return draw


def test_lines_and_bars_side_by_side(drawn):
    lines, bars = drawn({
        "long": {"a": ([1, 2], [0.5, None]), "b": ([1, 2], [0.25, 1.0])},
        "one": {"b": ([64], [0.75]), "a": ([64], [None])},
    }, top=1.05)  # fmt: skip
    assert [line.get_label() for line in lines.lines] == ["a", "b"]
    assert lines.get_legend() is not None
    assert [label.get_text() for label in bars.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in bars.patches] == [0.75, 0.0]
    assert [text.get_text() for text in bars.texts] == ["0.75", ""]
    colours = {line.get_label(): line.get_color() for line in lines.lines}
    from matplotlib.colors import to_hex

    assert to_hex(bars.patches[0].get_facecolor()) == colours["b"]


def test_many_names_have_their_legend_outside(drawn):
    for count, outside in ((6, False), (7, True)):
        (axes,) = drawn({"p": {f"m{number}": ([1, 2], [0.0, number]) for number in range(count)}})
        axes.figure.canvas.draw()
        legend = axes.get_legend().get_window_extent()
        assert (legend.x0 >= axes.get_window_extent().x1) == outside


def test_how_far_training_went_is_marked(drawn):
    (axes,) = drawn({"p": {"a": ([1, 2], [0.0, 1.0])}}, mark=1.5)
    line, mark = axes.lines
    assert (line.get_label(), list(mark.get_xdata())) == ("a", [1.5, 1.5])


def test_a_map_has_its_numbers(drawn, tmp_path):
    picture.heat([[1.0, -0.004], [None, 0.256]], ["a", "b"], ["x", "y"], tmp_path / "map.png")
    (axes,) = drawn.figures.pop().axes
    assert [text.get_text() for text in axes.texts] == ["1.00", "0.00", "", "0.26"]
    assert axes.images[0].get_array().tolist() == [[1.0, -0.004], [0.0, 0.256]]


def test_a_panel_without_a_line(drawn):
    (axes,) = drawn({"p": {}})
    assert not axes.lines
