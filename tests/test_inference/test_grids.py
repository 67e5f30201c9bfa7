from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tame.inference.grids
from tame.classifier import FrozenClassifier
from tame.inference import Classes, Explanation, class_grid, explain, image_grid, write_explanations
from tame.inference.grids import method_titles
from tame.utils.checks import InputError

SIDE = tame.inference.grids._SIDE


def made(target=0, file="a.png", method="gradcam", backbone="toy", confidence=0.5, crop=(10, 0, 50, 40)):
    """Return an explanation of an image that is grey within the crop and white around it."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((90, 90, 90), tuple(map(round, crop)))
    return Explanation(
        image, np.eye(4, dtype=np.float32), target, f"class{target}", confidence, method, backbone, "tame", (60, 40),
        crop, file, {},
    )  # fmt: skip


# --- pages and classes


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        (6, {"grid.png": 6}),
        (7, {"grid-1.png": 6, "grid-2.png": 1}),
        (12, {"grid-1.png": 6, "grid-2.png": 6}),
    ],
)
def test_long_lists_are_split_into_pages(methods, files, tmp_path, pages, count, columns):
    out = tmp_path / "out"
    report = write_explanations(files[:count], methods("centre", "random"), out=out, batch_size=5, progress=False)
    assert sorted(path.name for path in out.glob("grid*.png")) == list(columns)
    assert [len(rows[0]) for rows, *_ in pages] == list(columns.values())
    for name, number in columns.items():
        assert len([entry for entry in report.entries if entry["grid"] == name]) == 2 * number


def test_several_classes_make_a_grid_per_image(toy_backbone, files, explained, pages):
    entries = explained(*files[:2], backbone=toy_backbone, method=["gradcam", "centre"], target=["dog", "3"])
    assert [entry["target"] for entry in entries] == [1, 3] * 4
    assert [entry["grid"] for entry in entries] == ["00.grid.png"] * 4 + ["01.grid.png"] * 4
    assert not Path("explanations", "grid.png").exists()
    for (rows, row_titles, column_titles, _), file in zip(pages, files, strict=False):
        assert [len(row) for row in rows] == [3, 3]
        assert row_titles == ["Grad-CAM", "Centre"]
        assert column_titles[0] == file.name
        assert [title.rpartition(") ")[0] for title in column_titles[1:]] == ["dog (1", "fish (3"]


def test_many_classes_are_split_into_pages(methods, files, tmp_path, pages, monkeypatch):
    monkeypatch.setattr(tame.inference.grids, "COLUMNS", 3)
    report = write_explanations(
        files[:1], methods("gradcam", "centre"), out=tmp_path / "out", classes=Classes(top=5), progress=False
    )
    assert [entry["grid"] for entry in report.entries] == (["00.grid-1.png"] * 3 + ["00.grid-2.png"] * 2) * 2
    assert [len(rows[0]) for rows, *_ in pages] == [4, 3]  # the image and its classes


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_leave_no_gap(methods, files, tmp_path, pages, workers):
    files[1].write_text("unreadable")
    report = write_explanations(
        files[:8], methods("gradcam", "centre"), out=tmp_path / "out", num_workers=workers, progress=False
    )
    assert [failure.file for failure in report.failures] == [str(files[1])]
    assert [len(rows[0]) for rows, *_ in pages] == [6, 1]
    assert {entry["grid"] for entry in report.entries[:12]} == {"grid-1.png"}
    assert {entry["grid"] for entry in report.entries[12:]} == {"grid-2.png"}


def test_backbones_of_other_classes(methods, files, tmp_path):
    (one,) = methods("centre")
    spec = replace(one.classifier.spec, name="other", class_names=tuple("abcde"))
    other = one._replace(classifier=FrozenClassifier(spec, one.classifier.module, ["stage3"]))
    with pytest.raises(InputError, match="expected backbones of the same classes, got toy_cnn and other"):
        write_explanations(files, [one, other], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_methods_and_two_of_one_name(methods, files, tmp_path):
    with pytest.raises(InputError, match="expected at least one method to explain with, got none"):
        write_explanations(files, [], out=tmp_path / "out")
    with pytest.raises(InputError, match="expected methods of different names, got gradcam, gradcam"):
        write_explanations(files, methods("gradcam", "gradcam"), out=tmp_path / "out")


# --- pictures


def test_pictures_are_cropped_to_what_was_shown(pages):
    image_grid([[made()], [made(method="centre")]])
    images, *overlays = pages[0][0]
    assert images[0].size == (SIDE, SIDE)
    assert images[0].getcolors() == [(SIDE * SIDE, (90, 90, 90))]
    assert all(row[0].size == (SIDE, SIDE) for row in overlays)


def test_classifiers_that_see_different_parts_share_one_frame(pages):
    wide = made(backbone="wide", crop=(-5, 0, 55, 40))  # reaches beyond the edge
    image_grid([[made()], [wide]])
    rows = pages[0][0]
    assert {row[0].size for row in rows} == {(SIDE, round(SIDE * 40 / 55))}


def test_reduced_images_are_cropped_at_their_own_scale(pages):
    large = replace(made(crop=(100, 0, 500, 400)), image_size=(600, 400), image=made().image)
    image_grid([[large]])
    rows = pages[0][0]
    assert rows[0][0].getcolors() == [(SIDE * SIDE, (90, 90, 90))]


def test_confidences_stand_in_the_pictures_where_they_differ(pages):
    class_grid([[made(0, confidence=0.5), made(1)], [made(0, backbone="other", confidence=0.25), made(1)]])
    class_grid([[made(0), made(1)], [made(0, backbone="other"), made(1)]])
    (own, _, own_titles, _), (same, row_titles, same_titles, _) = pages
    assert own_titles == ["a.png", "class0 (0)", "class1 (1)"]
    assert same_titles == ["a.png", "class0 (0) 50.0 %", "class1 (1) 50.0 %"]
    assert row_titles == ["toy", "other"]
    assert own[0][0] == same[0][0]
    assert all(a != b for one, two in zip(own, same, strict=True) for a, b in zip(one[1:], two[1:], strict=True))
    corner = np.asarray(own[0][1]).astype(int) - np.asarray(same[0][1])
    assert np.abs(corner[40:]).max() == np.abs(corner[:, 120:]).max() == 0


def test_rows_of_one_method_are_named_by_it(pages):
    class_grid([[made(0), made(1)]])
    assert pages[0][1] == ["Grad-CAM"]


def test_grids_can_be_drawn_of_single_explanations(toy_classifier, files):
    rows = [
        [explain(file, toy_classifier(), target=2, method=method) for file in files[:2]]
        for method in ("centre", "random")
    ]
    assert image_grid(rows).width > 2 * SIDE
    assert image_grid(rows).height > 3 * SIDE


@pytest.mark.parametrize("draw", [image_grid, class_grid])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected at least one explanation to draw, got none"),
        ([[]], "expected at least one explanation to draw, got none"),
        ([[made()], [made(), made()]], r"expected rows of equal length, got \[1, 2\]"),
        ([[made(0)], [made(1)]], "expected one image and one class per column, got 2 in column 1"),
        ([[made(), made()], [made(), made(file="b.png")]], "one class per column, got 2 in column 2"),
    ],
)
def test_bad_grids(draw, rows, message):
    with pytest.raises(InputError, match=message):
        draw(rows)


def test_class_grid_of_several_images():
    with pytest.raises(InputError, match="expected explanations of one image, got several"):
        class_grid([[made(file="a.png"), made(file="b.png")]])


def test_methods_of_one_title_are_told_apart():
    assert method_titles(["ttame", "rise"]) == {"ttame": "T-TAME", "rise": "RISE"}
    assert method_titles(["ttame@a", "gradcam"])["ttame@a"] == "T-TAME"
    assert method_titles(["ttame@a", "ttame@b"]) == {"ttame@a": "T-TAME (a)", "ttame@b": "T-TAME (b)"}
    assert method_titles(["one:dark", "two:dark"]) == {"one:dark": "dark (one:dark)", "two:dark": "dark (two:dark)"}
