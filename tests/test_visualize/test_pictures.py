import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from tame.functional.masking import upsample
from tame.utils.checks import InputError
from tame.visualize import figure, grid, overlay
from tame.visualize.pictures import _font, _wrapped


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def array(image):
    return np.asarray(image).astype(float)


def expected_colours(heat, size, name="jet"):
    """Reference implementation: torch's bilinear upsampling, matplotlib's colours, 0 to 255."""
    upsampled = upsample(torch.from_numpy(heat)[None], (size[1], size[0]))[0].numpy()
    return colormaps[name](upsampled)[:, :, :3] * 255


HEAT = np.random.default_rng(1).random((7, 5)).astype(np.float32)


@pytest.mark.parametrize("colormap", ["jet", "viridis"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_whole_image_is_blended_with_the_upsampled_map(colormap, kind):
    image = noise(60, 40)
    got = overlay(image, kind(HEAT), alpha=0.3, colormap=colormap)
    assert got.size == (60, 40)
    assert got.mode == "RGB"
    assert np.abs(array(got) - (0.7 * array(image) + 0.3 * expected_colours(HEAT, (60, 40), colormap))).max() < 4


def test_colours_inside_the_box_and_grey_outside():
    image = noise(60, 40)
    got = array(overlay(image, HEAT, crop_box=(10.2, 4.7, 50.4, 35.3), alpha=1))
    assert np.abs(got[5:35, 10:50] - expected_colours(HEAT, (40, 30))).max() < 8
    outside = np.ones((40, 60), bool)
    outside[5:35, 10:50] = False
    grey = got[outside]
    assert (grey == grey[:, :1]).all()
    assert grey.mean() < 0.6 * array(image)[outside].mean()


@pytest.mark.parametrize("box", [(-10, -10, 70, 50), (-10.0, 5.0, 30.0, 45.0)])
def test_box_beyond_the_image_is_clipped(box):
    left, top, right, bottom = (int(edge) for edge in box)
    colours = expected_colours(HEAT, (right - left, bottom - top))
    got = array(overlay(noise(60, 40), HEAT, crop_box=box, alpha=1))
    inside = (slice(max(top, 0), min(bottom, 40)), slice(max(left, 0), min(right, 60)))
    shown = colours[inside[0].start - top : inside[0].stop - top, inside[1].start - left : inside[1].stop - left]
    assert np.abs(got[inside] - shown).max() < 8


def test_alpha_zero_is_the_image_and_inputs_are_unchanged():
    image, heat = noise(30, 20), HEAT.copy()
    before = array(image)
    assert np.array_equal(array(overlay(image, heat, alpha=0)), before)
    overlay(image, heat, (5, 5, 10, 10))
    assert np.array_equal(array(image), before)
    assert np.array_equal(heat, HEAT)


def test_grey_image_and_constant_map():
    got = overlay(Image.new("L", (8, 8), 100), np.ones((1, 1)), alpha=1)
    assert got.getpixel((3, 3)) == (127, 0, 0)  # jet's last colour


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": np.zeros((1, 4, 4))}, r"expected a map of shape \(h, w\), got \(1, 4, 4\)"),
        ({"map": np.array([[0, 2.0]])}, r"expected a map in \[0, 1\], got values in \[0, 2\]"),
        ({"map": np.array([[0, np.nan]])}, r"expected a map in \[0, 1\], got values in \[nan, nan\]"),
        ({"crop_box": (5, 5, 5, 9)}, r"expected a box .* that is not empty, got \(5, 5, 5, 9\)"),
        ({"colormap": "rainbows"}, "unknown colour map 'rainbows'"),
        ({"alpha": 50}, r"expected alpha in \[0, 1\], got 50"),
    ],
)
def test_bad_overlays(options, message):
    with pytest.raises(InputError, match=message):
        overlay(**{"image": noise(10, 10), "map": HEAT, **options})


def test_a_box_of_less_than_a_pixel_covers_the_pixel_that_it_is_in():
    got = overlay(Image.new("RGB", (1, 40)), np.ones((4, 4)), (0.06, 19.6, 0.94, 20.4), alpha=1)
    assert [got.getpixel((0, y)) for y in (19, 20, 21)] == [(0, 0, 0), (127, 0, 0), (0, 0, 0)]


RED = (255, 0, 0)


def bounds(picture, colour):
    """Return (left, top, width, height) of the pixels near a colour."""
    rows, columns = np.nonzero(np.abs(array(picture) - colour).max(axis=2) < 60)
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (64, 64), (1000, 10)])
def test_aspect_ratio_is_kept_and_nothing_is_cut(size):
    picture = figure([("a title", Image.new("RGB", size, RED))], side=200)
    left, top, width, height = bounds(picture, RED)
    assert (width, height) == tuple(round(200 * length / max(size)) for length in size)
    assert left > 0 and top > 0
    assert left + width < picture.width and top + height < picture.height


def ink(picture):
    """Return which columns and rows hold text."""
    dark = array(picture).max(axis=2) < 100
    return np.nonzero(dark.any(axis=0))[0], np.nonzero(dark.any(axis=1))[0]


@pytest.mark.parametrize(
    "title", ["German short-haired pointer (210) 93.1 %", "x" * 200, "Supercalifragilisticexpialidocious " * 9]
)
@pytest.mark.parametrize("size", [(30, 200), (200, 200), (200, 30)])
def test_long_titles_stay_above_their_own_panel(title, size):
    panel = Image.new("RGB", size, RED)
    alone = figure([(title, panel)], side=200)
    columns, rows = ink(alone)
    assert columns.min() > 0 and columns.max() < alone.width - 1
    assert rows.min() > 0 and rows.max() < bounds(alone, RED)[1]
    both = figure([(title, panel), (title, panel)], side=200)
    middle = both.width // 2
    assert ink(both.crop((middle - 2, 0, middle + 2, both.height)))[0].size == 0


def test_percent_sign_stays_with_its_number():
    font = _font(20)
    wrapped = [_wrapped("Egyptian cat (285) 4.2 %", width, font).split("\n") for width in range(110, 300)]
    assert {len(lines) for lines in wrapped} == {1, 2, 3}
    assert all(" ".join(lines) == "Egyptian cat (285) 4.2\N{NO-BREAK SPACE}%" for lines in wrapped)
    assert not any(line.startswith("%") for lines in wrapped for line in lines)


def test_panels_are_side_by_side_at_equal_height():
    colours = [(255, 0, 0), (0, 200, 0), (0, 0, 255)]
    picture = figure([("one line", Image.new("RGB", (80, 60), colour)) for colour in colours], side=120)
    found = [bounds(picture, colour) for colour in colours]
    assert len({(top, width, height) for _, top, width, height in found}) == 1
    lefts = [left for left, *_ in found]
    assert lefts == sorted(lefts)
    assert lefts[1] - lefts[0] == lefts[2] - lefts[1] > 120


def test_grid_keeps_its_order():
    colours = [[(255, 0, 0), (0, 200, 0)], [(0, 0, 255), (255, 0, 255)]]
    rows = [[Image.new("RGB", (50, 50), colour) for colour in row] for row in colours]
    plain = grid(rows, side=60)
    titled = grid(rows, ["a long row title that needs lines", "b"], ["left", "right"], side=60)
    assert titled.width > plain.width and titled.height > plain.height
    for picture in (plain, titled):
        (a, b), (c, d) = [[bounds(picture, colour) for colour in row] for row in colours]
        assert a[0] == c[0] < b[0] == d[0]
        assert a[1] == b[1] < c[1] == d[1]
        assert a[2] == 60


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (([],), "expected at least one picture to draw, got none"),
        (([[]],), "expected at least one picture to draw, got none"),
        (([[noise(4, 4)], [noise(4, 4)] * 2],), r"expected rows of equal length, got \[1, 2\]"),
        (([[noise(4, 4)]], ["a", "b"]), "expected 1 row titles, got 2"),
        (([[noise(4, 4)]], [], ["a", "b"]), "expected 1 column titles, got 2"),
    ],
)
def test_bad_grids(table, message):
    with pytest.raises(InputError, match=message):
        grid(*table)


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    program = (
        "import sys, numpy, PIL.Image, tame.visualize as v; assert 'matplotlib' not in sys.modules;"
        "p = v.overlay(PIL.Image.new('RGB', (9, 9)), numpy.ones((2, 2))); v.figure([('t', p)]);"
        "v.road_curves(v.RoadCurves([0.5], {'m': dict.fromkeys(v.PANELS, [1.0])}), sys.argv[1]);"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "road"], check=True)
    assert (tmp_path / "road.pdf").is_file()


def test_titles_may_hold_anything():
    panel = Image.new("RGB", (60, 40), (200, 30, 30))
    odd, escaped = (figure([(title, panel)], side=100) for title in ("\udcff\x1b[2J.png", r"\udcff\x1b[2J.png"))
    assert odd.tobytes() == escaped.tobytes()
