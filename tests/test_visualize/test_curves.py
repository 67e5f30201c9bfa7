from itertools import islice, pairwise

import pytest
from matplotlib import rcParams
from PIL import Image

from tame.utils.checks import InputError
from tame.visualize import PANELS, RoadCurves, road_curves
from tame.visualize.curves import styles


def curves(methods=3, removes=(0.1, 0.5, 0.9), **more):
    """Curves of some methods that differ."""
    lines = [dict.fromkeys(PANELS, [80 - 40 * each - number for each in removes]) for number in range(methods)]
    return RoadCurves(removes, {f"method {number}": line for number, line in enumerate(lines)}, **more)


@pytest.mark.parametrize("methods", [1, 12, 40])
@pytest.mark.parametrize("name", ["road", "road.png", "road.PDF", "new/road"])
def test_curves_are_a_png_and_a_pdf(tmp_path, methods, name):
    files = road_curves(curves(methods), tmp_path / name)
    stem = name.partition(".")[0]
    assert files == (tmp_path / f"{stem}.png", tmp_path / f"{stem}.pdf")
    with Image.open(files[0]) as picture:
        assert picture.format == "PNG" and min(picture.size) > 1000
        picture.load()
    content = files[1].read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF") and content.count(b"/Type /Page ") == 1
    assert sorted(files[0].parent.iterdir()) == sorted(files)  # no temporary file is left


def test_a_dot_in_the_file_name_is_no_suffix(tmp_path):
    assert [file.name for file in road_curves(curves(), tmp_path / "v1.2")] == ["v1.2.png", "v1.2.pdf"]


def test_curves_show_the_numbers(tmp_path, drawn):
    removes = [0.1, 0.5]
    values = {
        "rise": {name: [10.0 * number, number] for number, name in enumerate(PANELS, 1)},
        "random": {name: [3.0, 2.0] for name in PANELS},
    }
    start = {"confidence": 70.0, "kept": 100.0}
    road_curves(
        RoadCurves(removes, values, {"rise": dict.fromkeys(PANELS, [2.0, 1.0])}, start, "a title"), tmp_path / "x"
    )
    page = drawn()
    assert page.get_suptitle() == "a title"
    for axes, (name, (title, label)), begin in zip(page.axes, PANELS.items(), (70, 100, 70, 100), strict=True):
        assert (axes.get_title(), axes.get_ylabel(), axes.get_xlim()[0]) == (title, label, 0)
        for line, (method, lines) in zip(axes.lines, values.items(), strict=True):
            assert line.get_label() == method
            assert line.get_xdata() == pytest.approx([0, 10, 50])
            assert line.get_ydata() == pytest.approx([begin, *lines[name]])
        (band,) = axes.collections  # of the method with errors
        first, last = values["rise"][name]
        corners = {(round(x), round(y, 6)) for x, y in band.get_paths()[0].vertices}
        assert corners == {(0, begin), (10, first - 2), (10, first + 2), (50, last - 1), (50, last + 1)}
    (legend,) = page.legends
    assert [text.get_text() for text in legend.get_texts()] == ["rise", "random"]
    assert [axes.get_xlabel() for axes in page.axes] == ["", "", "removed pixels (%)", "removed pixels (%)"]


def test_curves_without_a_start_begin_at_the_first_fraction(tmp_path, drawn):
    road_curves(curves(1), tmp_path / "x")
    assert drawn().axes[0].lines[0].get_xdata() == pytest.approx([10, 50, 90])
    assert drawn().axes[0].get_xlim()[0] == 0


def test_curves_can_be_distinguished_in_grey():
    looks = list(islice(styles(), 28))
    assert len({look["marker"] for look in looks[:12]}) == 12
    assert len({(look["color"], look["dashes"]) for look in looks}) == 28
    assert all(a["color"] != b["color"] and a["dashes"] != b["dashes"] for a, b in pairwise(looks))


def test_curves_have_no_side_effects(tmp_path):
    """Settings and the caller's data are unchanged, and files are reproducible."""
    before, data = dict(rcParams), curves(errors={"method 1": dict.fromkeys(PANELS, [1.0, 1.0, 1.0])})
    files = road_curves(data, tmp_path / "a")
    assert dict(rcParams) == before
    assert data == curves(errors={"method 1": dict.fromkeys(PANELS, [1.0, 1.0, 1.0])})
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in road_curves(data, tmp_path / "b")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RoadCurves([0.1], {}), r"expected methods and fractions to draw, got \[\] and \[0.1\]"),
        (RoadCurves([], {"x": dict.fromkeys(PANELS, [])}), r"expected methods and fractions .*, got \['x'\] and \[\]"),
        (RoadCurves([0.1], {"x": {"morf_confidence": [1]}}), "expected 1 values of morf_kept, got 0 of x"),
        (RoadCurves([0.1], {"x": dict.fromkeys(PANELS, [1, 2])}), "expected 1 values of morf_confidence, got 2 of x"),
        (curves(errors={"method 0": {}}), "expected 3 errors of morf_confidence, got 0 of method 0"),
    ],
)
def test_bad_curves(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        road_curves(data, tmp_path / "x")
    assert not list(tmp_path.iterdir())
