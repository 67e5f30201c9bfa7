import pytest
from PIL import Image

from tame.visualize import learning_rate_curve

LRS, SMOOTHED = [0.001, 0.01, 0.1, 1.0], [3.0, 2.5, 2.0, 90.0]


def test_the_curve_of_learning_rates_marks_the_suggestion(tmp_path, drawn):
    file = learning_rate_curve(LRS, [3.1, 2.4, 2.1, 95.0], SMOOTHED, 0.01, tmp_path / "new" / "lr.png")
    with Image.open(file) as picture:
        assert picture.format == "PNG"
    assert list(file.parent.iterdir()) == [file]
    (axes,) = drawn().axes
    batches, smoothed, mark = (line.get_xydata().tolist() for line in axes.lines)
    assert batches == [[0.001, 3.1], [0.01, 2.4], [0.1, 2.1], [1.0, 95.0]]
    assert smoothed == [list(point) for point in zip(LRS, SMOOTHED, strict=True)]
    assert mark == [[0.01, 2.5]]
    assert (axes.get_xscale(), axes.get_title()) == ("log", "")
    assert axes.lines[2].get_label() == "suggestion 0.01"
    low, high = axes.get_ylim()
    assert low < 2 and 4 < high < 5  # not 90, where nothing else could be seen


@pytest.mark.parametrize("smoothed", [[2.0] * 4, [1.0, 2.0, 3.0, 4.0]])
def test_a_curve_without_a_suggestion_is_titled(tmp_path, drawn, smoothed):
    learning_rate_curve(LRS, smoothed, smoothed, None, tmp_path / "lr.png")
    (axes,) = drawn().axes
    assert len(axes.lines) == 2
    assert axes.get_title() == "no suggestion: the loss does not decrease clearly"
    low, high = axes.get_ylim()
    assert low < min(smoothed) and high > max(smoothed)
