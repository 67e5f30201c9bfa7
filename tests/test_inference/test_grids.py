import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tame.explainers.setup
import tame.inference.files
import tame.inference.grids
from tame.backbones import BACKBONES, load_backbone
from tame.classifier import FrozenClassifier
from tame.cli.main import main
from tame.data import Crop, load_image
from tame.explainers import build_explainer
from tame.inference import Explanation, Method, class_grid, compare_files, explain_files, image_grid
from tame.inference.setup import set_up_methods
from tame.options import ExplainOptions, MethodOptions
from tame.utils.checks import InputError
from toys import TOY_SPECS, seeded

SIDE = tame.inference.grids._SIDE
QUIET = ("--device", "cpu", "--num-workers", "0")


@pytest.fixture(autouse=True)
def _fresh_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toy_vit(monkeypatch):
    """Register the toy transformer; it is shown more of a photograph than the toy CNN."""
    spec = seeded(TOY_SPECS["vit"])
    spec = replace(spec, preprocessing=replace(spec.preprocessing, resize=32))
    monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
    return spec.name


@pytest.fixture
def files(photographs):
    return sorted(photographs.glob("*.png"))


@pytest.fixture
def methods(toy_classifier):
    """Return ``methods("gradcam", ...)`` of one toy classifier."""
    classifier = toy_classifier()

    def make(*names):
        return [
            Method(classifier, build_explainer(classifier, MethodOptions(method=name)), name, "tame") for name in names
        ]

    return make


@pytest.fixture
def pages(monkeypatch):
    """Record what the grids are drawn of: rows of pictures, titles of rows and of columns."""
    drawn = []
    draw = tame.inference.grids.grid
    monkeypatch.setattr(tame.inference.grids, "grid", lambda *given: drawn.append(given) or draw(*given))
    return drawn


@pytest.fixture
def trained(toy_backbone, photographs):
    """Return ``trained(backbone, ...)``: an untrained checkpoint, made by the command line."""

    def train(backbone):
        arguments = ["train", "--backbone", backbone, *QUIET, "--init-images", "4", "--epochs", "0"]
        assert main([*arguments, "--data", str(photographs), "--out", f"runs/{backbone}"]) == 0
        return f"runs/{backbone}"

    return train


def explained(*arguments, out="explanations"):
    """Run ``tame explain``; return its manifest."""
    assert main(["explain", *QUIET, "--out", out, *map(str, arguments)]) == 0
    return json.loads((Path(out) / "manifest.json").read_text())


def refused(capfd, *arguments):
    """Run ``tame explain``; return the one sentence that it ends with, after checking that nothing was written."""
    before = sorted(Path().rglob("*"))
    assert main(["explain", *QUIET, *map(str, arguments)]) == 2
    assert sorted(Path().rglob("*")) == before
    return capfd.readouterr().err.strip().splitlines()[-1]


def made(target=0, file="a.png", method="gradcam", backbone="toy", confidence=0.5, crop=(10, 0, 50, 40)):
    """Return an explanation of a photograph that is grey within the crop and white around it."""
    photo = Image.new("RGB", (60, 40), "white")
    photo.paste((90, 90, 90), tuple(map(round, crop)))
    return Explanation(
        photo, np.eye(4, dtype=np.float32), target, f"class{target}", confidence, method, backbone, "tame", (60, 40),
        crop, file, {},
    )  # fmt: skip


# --- files


def test_each_method_has_a_folder_and_the_manifest_names_all(toy_backbone, files, pages):
    entries = explained(*files[:3], "--backbone", toy_backbone, "--method", "gradcam,gradcam++, centre")
    names = ["gradcam", "gradcam++", "centre"]
    assert [(entry["file"], entry["method"]) for entry in entries] == [
        (str(file), name) for file in files[:3] for name in names
    ]
    for entry in entries:
        stem = Path(entry["file"]).stem
        assert entry["map"] == f"{entry['method']}/{stem}.{entry['target']}.npy"
        assert entry["overlay"] == f"{entry['method']}/{stem}.overlay.png"
        assert entry["grid"] == "grid.png"
        assert np.load(Path("explanations", entry["map"])).ndim == 2
    expected = {entry[kind] for entry in entries for kind in ("map", "overlay", "grid")} | {"manifest.json"}
    out = Path("explanations")
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected
    ((rows, row_titles, column_titles, _),) = pages
    assert [len(row) for row in rows] == [3] * 4
    assert row_titles == ["photograph", *names]
    assert column_titles == [
        f"{entry['class_name']} ({entry['target']}) {100 * entry['confidence']:.1f} %" for entry in entries[::3]
    ]


def test_one_method_writes_what_it_always_did(toy_backbone, files, methods, pages):
    entries = explained(*files[:2], "--backbone", toy_backbone, "--method", "gradcam", "--top", "2")
    assert not any("grid" in entry for entry in entries)
    assert {path.name for path in Path("explanations").iterdir()} == {
        "00.overlay.png", "01.overlay.png", "manifest.json", *(entry["map"] for entry in entries),
    }  # fmt: skip
    assert pages == []
    (by,) = methods("gradcam")
    same = {"top": 2, "progress": False}
    report = explain_files(files[:2], by.explainer, by.classifier, method="gradcam", preset="tame", out="other", **same)
    assert compare_files(files[:2], [by], out="third", **same).entries == report.entries


def test_several_methods_give_the_maps_that_each_gives_alone(toy_backbone, files):
    together = explained(*files[:3], "--backbone", toy_backbone, "--method", "gradcam,random", out="together")
    for method in ("gradcam", "random"):
        alone = explained(*files[:3], "--backbone", toy_backbone, "--method", method, out=method)
        own = [entry for entry in together if entry["method"] == method]
        for one, two in zip(alone, own, strict=True):
            paths = {"map": f"{method}/{one['map']}", "overlay": f"{method}/{one['overlay']}", "grid": "grid.png"}
            assert two == {**one, **paths}
            assert np.array_equal(np.load(Path(method, one["map"])), np.load(Path("together", two["map"])))
            assert Image.open(Path(method, one["overlay"])) == Image.open(Path("together", two["overlay"]))


def test_all_methods_share_one_classifier_and_its_scores(toy_backbone, files, monkeypatch):
    loaded, scored = [], []
    load, logits = tame.explainers.setup.load_classifier, FrozenClassifier.logits
    monkeypatch.setattr(
        tame.explainers.setup, "load_classifier", lambda *given: loaded.append(load(*given)) or loaded[-1]
    )
    monkeypatch.setattr(FrozenClassifier, "logits", lambda self, images: scored.append(self) or logits(self, images))
    explained(files[0], "--backbone", toy_backbone, "--method", "centre,random,all_ones")
    assert scored == loaded and len(loaded) == 1


def test_functions_of_ones_own_beside_others(toy_backbone, files):
    Path("mine.py").write_text("def dark(images, targets):\n    return -images.mean(1)\n")
    entries = explained(files[0], "--backbone", toy_backbone, "--method", "mine:dark,centre")
    assert [entry["method"] for entry in entries] == ["mine:dark", "centre"]
    assert entries[0]["overlay"] == "mine.dark/00.overlay.png"  # a name for a folder on every system


def test_trained_mechanisms_beside_others(trained, toy_backbone, files):
    layers = "stage2,stage3"
    arguments = ["train", "--backbone", toy_backbone, *QUIET, "--init-images", "4", "--epochs", "0", "--layers", layers]
    assert main([*arguments, "--data", str(files[0].parent), "--out", "run"]) == 0
    common = ["--backbone", toy_backbone, "--checkpoint", "run"]
    entries = explained(files[0], *common, "--method", "gradcam,ttame")  # the layers are the checkpoint's
    alone = explained(files[0], *common, "--method", "ttame", out="alone")
    own = np.load(Path("explanations", entries[1]["map"]))
    one = np.load(Path("alone", alone[0]["map"]))
    assert np.array_equal(own, one)


def test_checkpoints_of_one_backbone_beside_each_other(toy_backbone, files, monkeypatch):
    scored, logits = [], FrozenClassifier.logits
    for run, layers in (("runs/low", "stage1,stage2"), ("runs/high", "stage3")):
        arguments = ["train", "--backbone", toy_backbone, *QUIET, "--init-images", "4", "--epochs", "0"]
        assert main([*arguments, "--data", str(files[0].parent), "--out", run, "--layers", layers]) == 0
    monkeypatch.setattr(FrozenClassifier, "logits", lambda self, images: scored.append(self) or logits(self, images))
    common = ["--backbone", toy_backbone]
    entries = explained(files[0], *common, "--method", "centre,ttame@runs/low,ttame@runs/high")
    assert len(scored) == 1  # one network, whatever its taps
    assert [entry["method"] for entry in entries] == ["centre", "ttame@runs/low", "ttame@runs/high"]
    assert [entry["overlay"] for entry in entries[1:]] == [
        "ttame-runs.low/00.overlay.png",
        "ttame-runs.high/00.overlay.png",
    ]
    for entry in entries[1:]:
        run = entry["method"].partition("@")[2]
        (alone,) = explained(files[0], *common, "--checkpoint", run, out="alone")
        assert np.array_equal(np.load(Path("explanations", entry["map"])), np.load(Path("alone", alone["map"])))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_leave_no_gap(methods, files, tmp_path, pages, workers):
    files[1].write_text("unreadable")
    report = compare_files(
        files[:8], methods("gradcam", "centre"), out=tmp_path / "out", num_workers=workers, progress=False
    )
    assert [failure.file for failure in report.failures] == [str(files[1])]
    assert [len(rows[0]) for rows, *_ in pages] == [6, 1]
    assert {entry["grid"] for entry in report.entries[:12]} == {"grid-1.png"}
    assert {entry["grid"] for entry in report.entries[12:]} == {"grid-2.png"}


def test_what_is_said(toy_backbone, files, capfd):
    explained(*files[:2], "--backbone", toy_backbone, "--method", "gradcam,centre", "--target", "dog")
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(": ")[2][:8] for line in lines[:2]] == ["dog (1) "] * 2  # once, not for every method
    assert lines[2:] == ["4 explanations: overlays, maps, grid.png and manifest.json are in explanations"]
    explained(*files[:4], "--backbone", toy_backbone, "--method", "gradcam,centre", "--top", "2")
    assert capfd.readouterr().out.splitlines()[-1].startswith("16 explanations: overlays, maps, 4 grids and manifest")


# --- pages and classes


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        (6, {"grid.png": 6}),
        (7, {"grid-1.png": 6, "grid-2.png": 1}),
        (12, {"grid-1.png": 6, "grid-2.png": 6}),
    ],
)
def test_long_lists_are_cut_into_pages(methods, files, tmp_path, pages, count, columns):
    out = tmp_path / "out"
    report = compare_files(files[:count], methods("centre", "random"), out=out, batch_size=5, progress=False)
    assert sorted(path.name for path in out.glob("grid*.png")) == list(columns)
    assert [len(rows[0]) for rows, *_ in pages] == list(columns.values())
    for name, number in columns.items():
        assert len([entry for entry in report.entries if entry["grid"] == name]) == 2 * number


def test_several_classes_make_a_grid_per_photograph(toy_backbone, files, pages):
    entries = explained(
        *files[:2], "--backbone", toy_backbone, "--method", "gradcam,centre", "--target", "dog", "--target", "3"
    )
    assert [entry["target"] for entry in entries] == [1, 3] * 4
    assert [entry["grid"] for entry in entries] == ["00.grid.png"] * 4 + ["01.grid.png"] * 4
    assert not Path("explanations", "grid.png").exists()
    for (rows, row_titles, column_titles, _), file in zip(pages, files, strict=False):
        assert [len(row) for row in rows] == [3, 3]
        assert row_titles == ["gradcam", "centre"]
        assert column_titles[0] == file.name
        assert [title.rpartition(") ")[0] for title in column_titles[1:]] == ["dog (1", "fish (3"]


def test_many_classes_are_cut_into_pages(methods, files, tmp_path, pages, monkeypatch):
    monkeypatch.setattr(tame.inference.grids, "COLUMNS", 3)
    report = compare_files(files[:1], methods("gradcam", "centre"), out=tmp_path / "out", top=5, progress=False)
    assert [entry["grid"] for entry in report.entries] == (["00.grid-1.png"] * 3 + ["00.grid-2.png"] * 2) * 2
    assert [len(rows[0]) for rows, *_ in pages] == [4, 3]  # the photograph and its classes


# --- backbones


def test_backbones_beside_each_other(toy_backbone, toy_vit, files, pages, capfd):
    entries = explained(*files[:2], "--backbone", f"{toy_backbone},{toy_vit}", "--method", "gradcam")
    assert [entry["backbone"] for entry in entries] == [toy_backbone, toy_vit] * 2
    assert entries[1]["overlay"] == f"{toy_vit}/00.overlay.png"
    assert capfd.readouterr().out.splitlines()[1].endswith(" % (toy_vit)")
    ((rows, row_titles, column_titles, _),) = pages
    assert row_titles == ["photograph", toy_backbone, toy_vit]
    assert len(rows) == 3
    first = BACKBONES.get(toy_backbone)
    for backbone, own in ((toy_backbone, entries[::2]), (toy_vit, entries[1::2])):
        classifier = load_backbone(backbone)
        for file, entry in zip(files, own, strict=False):
            image = Crop.of(classifier.spec.preprocessing)(load_image(file))[None]
            assert entry["confidence"] == pytest.approx(float(classifier.logits(image).softmax(1)[0, entry["target"]]))
    for title, one, two in zip(column_titles, entries[::2], entries[1::2], strict=True):
        assert one["target"] == two["target"]  # the first backbone's best class
        assert one["crop"] != two["crop"]  # each has its own preprocessing
        assert title == f"{first.class_names[one['target']]} ({one['target']})"  # the confidences differ


def test_backbones_and_methods_beside_each_other(toy_backbone, toy_vit, files, pages):
    entries = explained(files[0], "--backbone", f"{toy_backbone},{toy_vit}", "--method", "gradcam,centre", "--top", "2")
    assert list(dict.fromkeys(entry["overlay"] for entry in entries)) == [
        f"{backbone}/{method}/00.overlay.png"
        for backbone in (toy_backbone, toy_vit)
        for method in ("gradcam", "centre")
    ]
    assert pages[0][1] == ["toy_cnn, gradcam", "toy_cnn, centre", "toy_vit, gradcam", "toy_vit, centre"]


def test_each_backbone_has_its_own_checkpoint(trained, toy_backbone, toy_vit, files):
    runs = [trained(backbone) for backbone in (toy_backbone, toy_vit)]
    both = ["--backbone", f"{toy_backbone},{toy_vit}"]
    entries = explained(files[0], *both, "--checkpoint", ",".join(reversed(runs)), "--target", "1")
    for backbone, run, entry in zip((toy_backbone, toy_vit), runs, entries, strict=True):
        (alone,) = explained(files[0], "--backbone", backbone, "--checkpoint", run, "--target", "1", out=backbone)
        assert np.array_equal(np.load(Path("explanations", entry["map"])), np.load(Path(backbone, alone["map"])))


def test_backbones_of_other_classes(methods, files, tmp_path):
    (one,) = methods("centre")
    spec = replace(one.classifier.spec, name="other", class_names=tuple("abcde"))
    other = one._replace(classifier=FrozenClassifier(spec, one.classifier.module, ["stage3"]))
    with pytest.raises(InputError, match="expected backbones of the same classes, got toy_cnn and other"):
        compare_files(files, [one, other], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- refusals


BAD = {
    "unknown method": (["--method", "centre,gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "twice": (["--method", "centre,centre"], "expected --method of different names, separated by commas, got"),
    "none": (["--method", ","], "expected --method of different names, separated by commas, got ','"),
    "unknown backbone": (["--backbone", "toy_cnn,resnet5"], "unknown backbone 'resnet5'"),
    "one backbone twice": (["--backbone", "toy_cnn,toy_cnn"], "expected --backbone of different names"),
    "no checkpoint": (["--method", "centre,ttame"], "no explainer for toy_cnn comes with this package"),
    "of one backbone": (
        ["--backbone", "toy_vit,toy_cnn", "--method", "centre,transformer_lrp"],
        "expected a transformer whose class token is classified",
    ),
    "no such checkpoint": (
        ["--backbone", "toy_cnn,toy_vit", "--method", "ttame", "--checkpoint", "a,b"],
        "no checkpoint at a",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_requests(toy_backbone, toy_vit, files, capfd, case):
    options, message = BAD[case]
    assert message in refused(capfd, *files, "--backbone", toy_backbone, *options)


def test_an_unknown_method_is_noticed_before_anything_is_loaded(toy_backbone, monkeypatch):
    monkeypatch.setattr(tame.explainers.setup, "load_classifier", lambda *given: pytest.fail("was loaded"))
    with pytest.raises(InputError, match="unknown method 'nothing'"):
        set_up_methods(ExplainOptions(backbone=toy_backbone, method="centre,nothing"))


def test_checkpoints_of_no_backbone_or_of_one_twice(trained, toy_backbone, toy_vit, files, capfd):
    run = trained(toy_backbone)
    others = "efficientnet_lite0,toy_vit"
    assert refused(capfd, "--backbone", others, "--checkpoint", run).endswith(
        "the checkpoint runs/toy_cnn was trained for backbone toy_cnn, not efficientnet_lite0 or toy_vit"
    )
    both = f"{toy_backbone},{toy_vit}"
    assert refused(capfd, "--backbone", both, "--checkpoint", f"{run}, {run}").endswith(
        "expected one checkpoint for backbone toy_cnn, got runs/toy_cnn and runs/toy_cnn"
    )


def test_no_methods_and_two_of_one_name(methods, files, tmp_path):
    with pytest.raises(InputError, match="expected at least one method to explain with, got none"):
        compare_files(files, [], out=tmp_path / "out")
    with pytest.raises(InputError, match="expected methods of different names, got gradcam, gradcam"):
        compare_files(files, methods("gradcam", "gradcam"), out=tmp_path / "out")


# --- pictures


def test_pictures_are_cut_to_what_was_shown(pages):
    image_grid([[made()], [made(method="centre")]])
    photographs, *overlays = pages[0][0]
    assert photographs[0].size == (SIDE, SIDE)
    assert photographs[0].getcolors() == [(SIDE * SIDE, (90, 90, 90))]
    assert all(row[0].size == (SIDE, SIDE) for row in overlays)


def test_classifiers_that_see_different_parts_share_one_frame(pages):
    wide = made(backbone="wide", crop=(-5, 0, 55, 40))  # reaches beyond the edge
    image_grid([[made()], [wide]])
    rows = pages[0][0]
    assert {row[0].size for row in rows} == {(SIDE, round(SIDE * 40 / 55))}


def test_reduced_photographs_are_cut_at_their_own_scale(pages):
    large = replace(made(crop=(100, 0, 500, 400)), image_size=(600, 400), photo=made().photo)
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
    assert pages[0][1] == ["gradcam"]


def test_grids_can_be_drawn_of_single_explanations(toy_classifier, files):
    rows = [
        [tame.explain(file, toy_classifier(), target=2, method=method) for file in files[:2]]
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
        ([[made()], [made(), made()]], r"expected rows of one length, got \[1, 2\]"),
        ([[made(0)], [made(1)]], "expected one photograph and one class per column, got 2 in column 1"),
        ([[made(), made()], [made(), made(file="b.png")]], "one class per column, got 2 in column 2"),
    ],
)
def test_bad_grids(draw, rows, message):
    with pytest.raises(InputError, match=message):
        draw(rows)


def test_class_grid_of_several_photographs():
    with pytest.raises(InputError, match="expected explanations of one photograph, got several"):
        class_grid([[made(file="a.png"), made(file="b.png")]])
