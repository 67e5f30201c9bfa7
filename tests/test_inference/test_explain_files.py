import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tame.inference.build
from tame.backbones import BACKBONES, load_backbone
from tame.classifier import FrozenClassifier
from tame.cli.main import main
from tame.data import Crop, load_image
from tame.inference import Classes, write_explanations

# --- methods


def test_each_method_has_a_folder_and_the_manifest_names_all(toy_backbone, files, explained, pages):
    entries = explained(*files[:3], backbone=toy_backbone, method=["gradcam", "gradcam++", "centre"])
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
    expected = {entry[kind] for entry in entries for kind in ("map", "overlay", "grid")} | {
        "manifest.json",
        ".tame-files.json",
    }
    out = Path("explanations")
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == expected
    ((rows, row_titles, column_titles, _),) = pages
    assert [len(row) for row in rows] == [3] * 4
    assert row_titles == ["image", "Grad-CAM", "Grad-CAM++", "Centre"]
    assert column_titles == [
        f"{entry['class_name']} ({entry['target']}) {100 * entry['confidence']:.1f} %" for entry in entries[::3]
    ]


def test_one_method_writes_no_folders_and_no_grids(toy_backbone, files, methods, explained, pages):
    entries = explained(*files[:2], backbone=toy_backbone, method="gradcam", top=2)
    assert not any("grid" in entry for entry in entries)
    assert {path.name for path in Path("explanations").iterdir()} == {
        "00.overlay.png", "01.overlay.png", "manifest.json", ".tame-files.json",
        *(entry["map"] for entry in entries),
    }  # fmt: skip
    assert pages == []
    (by,) = methods("gradcam")
    report = write_explanations(files[:2], [by], out="other", classes=Classes(top=2), progress=False)
    assert report.entries == entries


def test_several_methods_give_the_maps_that_each_gives_alone(toy_backbone, files, explained):
    together = explained(*files[:3], backbone=toy_backbone, method=["gradcam", "random"], out="together")
    for method in ("gradcam", "random"):
        alone = explained(*files[:3], backbone=toy_backbone, method=method, out=method)
        own = [entry for entry in together if entry["method"] == method]
        for one, two in zip(alone, own, strict=True):
            paths = {"map": f"{method}/{one['map']}", "overlay": f"{method}/{one['overlay']}", "grid": "grid.png"}
            assert two == {**one, **paths}
            assert np.array_equal(np.load(Path(method, one["map"])), np.load(Path("together", two["map"])))
            assert Image.open(Path(method, one["overlay"])) == Image.open(Path("together", two["overlay"]))


def test_all_methods_share_one_classifier_and_its_logits(toy_backbone, files, explained, monkeypatch):
    loaded, scored = [], []
    load, logits = tame.inference.build.load_classifier, FrozenClassifier.logits

    def record(*given, **arguments):
        loaded.append(load(*given, **arguments))
        return loaded[-1]

    record.__signature__ = inspect.signature(load)
    monkeypatch.setattr(tame.inference.build, "load_classifier", record)
    monkeypatch.setattr(FrozenClassifier, "logits", lambda self, images: scored.append(self) or logits(self, images))
    explained(files[0], backbone=toy_backbone, method=["centre", "random", "all_ones"])
    assert scored == loaded and len(loaded) == 1


def test_functions_by_name_beside_other_methods(toy_backbone, files, explained):
    Path("mine.py").write_text("def dark(images, targets):\n    return -images.mean(1)\n")
    entries = explained(files[0], backbone=toy_backbone, method=["mine:dark", "centre"])
    assert [entry["method"] for entry in entries] == ["mine:dark", "centre"]
    assert entries[0]["overlay"] == "mine.dark/00.overlay.png"  # a valid folder name on every system


def test_trained_mechanisms_beside_other_methods(trained, toy_backbone, files, explained):
    common = {"backbone": toy_backbone, "checkpoint": trained(toy_backbone, "run", ["stage2", "stage3"])}
    entries = explained(files[0], **common, method=["gradcam", "ttame"])  # the layers are the checkpoint's
    alone = explained(files[0], **common, method="ttame", out="alone")
    own = np.load(Path("explanations", entries[1]["map"]))
    one = np.load(Path("alone", alone[0]["map"]))
    assert np.array_equal(own, one)


def test_several_checkpoints_of_one_backbone(trained, toy_backbone, files, explained, pages, monkeypatch):
    scored, logits = [], FrozenClassifier.logits
    trained(toy_backbone, "runs/low", ["stage1", "stage2"])
    trained(toy_backbone, "runs/high", ["stage3"])
    monkeypatch.setattr(FrozenClassifier, "logits", lambda self, images: scored.append(self) or logits(self, images))
    names = ["centre", "ttame@runs/low", "ttame@runs/high"]
    entries = explained(files[0], backbone=toy_backbone, method=names)
    assert len(scored) == 1  # one network, whatever its feature layers
    assert pages[0][1] == ["image", "Centre", "T-TAME (runs/low)", "T-TAME (runs/high)"]
    assert [entry["method"] for entry in entries] == names
    assert [entry["overlay"] for entry in entries[1:]] == [
        "ttame-runs.low/00.overlay.png",
        "ttame-runs.high/00.overlay.png",
    ]
    for entry in entries[1:]:
        run = entry["method"].partition("@")[2]
        (alone,) = explained(files[0], backbone=toy_backbone, checkpoint=run, out="alone")
        assert np.array_equal(np.load(Path("explanations", entry["map"])), np.load(Path("alone", alone["map"])))


def test_what_the_command_prints(toy_backbone, toy_vit, files, capfd):
    def run(*arguments):
        assert main(["explain", *map(str, arguments), "--device", "cpu", "--num-workers", "0"]) == 0
        return capfd.readouterr().out.splitlines()

    methods = ("--backbone", toy_backbone, "--method", "gradcam,centre")
    lines = run(*files[:2], *methods, "--target", "dog")
    assert [line.partition(": ")[2][:8] for line in lines[:2]] == ["dog (1) "] * 2  # once, not for every method
    assert lines[2:] == ["4 explanations: overlays, maps, grid.png and manifest.json are in explanations"]
    lines = run(*files[:4], *methods, "--top", "2")
    assert lines[-1].startswith("16 explanations: overlays, maps, 4 grids and manifest")
    lines = run(*files[:2], "--backbone", f"{toy_backbone},{toy_vit}", "--method", "gradcam")
    assert lines[1].endswith(" % (toy_vit)")


# --- backbones


def test_several_backbones(toy_backbone, toy_vit, files, explained, pages):
    entries = explained(*files[:2], backbone=[toy_backbone, toy_vit], method="gradcam")
    assert [entry["backbone"] for entry in entries] == [toy_backbone, toy_vit] * 2
    assert entries[1]["overlay"] == f"{toy_vit}/00.overlay.png"
    ((rows, row_titles, column_titles, _),) = pages
    assert row_titles == ["image", toy_backbone, toy_vit]
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


def test_several_backbones_and_methods(toy_backbone, toy_vit, files, explained, pages):
    entries = explained(files[0], backbone=[toy_backbone, toy_vit], method=["gradcam", "centre"], top=2)
    assert list(dict.fromkeys(entry["overlay"] for entry in entries)) == [
        f"{backbone}/{method}/00.overlay.png"
        for backbone in (toy_backbone, toy_vit)
        for method in ("gradcam", "centre")
    ]
    assert pages[0][1] == ["toy_cnn, Grad-CAM", "toy_cnn, Centre", "toy_vit, Grad-CAM", "toy_vit, Centre"]


def test_each_backbone_has_its_own_checkpoint(trained, toy_backbone, toy_vit, files, explained):
    runs = [trained(backbone) for backbone in (toy_backbone, toy_vit)]
    both = [toy_backbone, toy_vit]
    entries = explained(files[0], backbone=both, method="ttame", checkpoint=runs[::-1], target=["1"])
    assert [entry["method"] for entry in entries] == ["ttame"] * 2
    for backbone, run, entry in zip((toy_backbone, toy_vit), runs, entries, strict=True):
        (alone,) = explained(files[0], backbone=backbone, checkpoint=run, target=["1"], out=backbone)
        assert np.array_equal(np.load(Path("explanations", entry["map"])), np.load(Path(backbone, alone["map"])))


@pytest.mark.parametrize("method", ["gradcam", ["gradcam", "centre"]])
def test_outputs_beside_the_images_are_not_explained_the_second_time(toy_backbone, files, explained, caplog, method):
    for file in files[3:]:
        file.unlink()
    files, folder = files[:3], files[0].parent
    once = explained(folder, backbone=toy_backbone, method=method, out=str(folder))
    caplog.clear()
    assert explained(folder, backbone=toy_backbone, method=method, out=str(folder)) == once
    assert {entry["file"] for entry in once} == set(map(str, files))
    assert len([message for message in caplog.messages if message.startswith("Left out")]) == 1
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) > len(files)
    caplog.clear()
    assert explained(*pictures, backbone=toy_backbone, method=method, out=str(folder)) == once
    assert len([message for message in caplog.messages if message.startswith("Left out")]) == 1


def test_nothing_but_outputs_is_refused(toy_backbone, files, explained, refused):
    (entry,) = explained(files[0], backbone=toy_backbone, method="gradcam")
    message = refused(Path("explanations", entry["overlay"]), backbone=toy_backbone)
    assert message.startswith("expected images to explain, got pictures that this package wrote, such as explanations")
