import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.data import Crop, crop_box, load_image
from tame.functional.masking import min_max
from tame.inference import Classes, Explanation, NamedExplainer, write_explanations
from tame.inference.write import _output_names
from tame.utils.checks import InputError
from tame.visualize import overlay

KEYS = {
    "file", "target", "class_name", "confidence", "map", "overlay",
    "method", "backbone", "versions", "image_size", "crop", "preset",
}  # fmt: skip


def brightness(images, targets):
    """Even classes are where the image is bright, odd ones where it is dark; (B, 8, 8)."""
    signs = 1 - 2 * (targets % 2)
    return images.mean(1)[:, ::4, ::4] * signs.view(-1, 1, 1)


@pytest.fixture
def files(noise_files):
    return noise_files


@pytest.fixture
def run(toy_classifier, tmp_path):
    """Run write_explanations with one explainer of the toy classifier, without a progress bar, into ``out``."""

    def run(files, explainer=brightness, classifier=None, targets=None, top=1, **options):
        by = NamedExplainer(classifier or toy_classifier(), explainer, "brightness", "tame")
        classes = Classes(None if targets is None else tuple(targets), top)
        return write_explanations(
            files, [by], classes=classes, **{"out": tmp_path / "out", "progress": False, **options}
        )

    return run


def test_manifest_describes_every_explanation(run, files, toy_classifier, tmp_path):
    report = run(files)
    out = tmp_path / "out"
    assert report.failures == []
    assert json.loads((out / "manifest.json").read_text()) == report.entries
    classifier = toy_classifier()
    crop = Crop.of(classifier.spec.preprocessing)
    for file, entry in zip(files, report.entries, strict=True):
        assert set(entry) == KEYS
        whole = load_image(file)
        image = crop(whole)[None]
        scores = classifier.logits(image).softmax(1)[0]
        target = int(scores.argmax())
        assert (entry["file"], entry["target"]) == (str(file), target)
        assert entry["class_name"] == classifier.spec.class_names[target]
        assert entry["confidence"] == pytest.approx(float(scores[target]), abs=1e-6)
        assert entry["image_size"] == list(whole.size)
        assert entry["crop"] == list(crop_box(*whole.size, 36, 32))
        assert (entry["method"], entry["backbone"], entry["preset"]) == ("brightness", "toy_cnn", "tame")
        assert {"tame", "torch", "torchvision", "python"} <= set(entry["versions"])
        saved = np.load(out / entry["map"])
        assert saved.dtype == np.float32
        assert np.array_equal(saved, min_max(brightness(image, torch.tensor([target])))[0].numpy())
        assert Image.open(out / entry["overlay"]).mode == "RGB"
    expected = {name for entry in report.entries for name in (entry["map"], entry["overlay"])} | {
        "manifest.json",
        ".tame-files.json",
    }
    assert {path.name for path in out.iterdir()} == expected  # no temporary files are left


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"batch_size": 1}, {"batch_size": 2, "num_workers": 2}])
def test_results_do_not_depend_on_batches_and_workers(run, files, tmp_path, options):
    files[1].write_text("unreadable")
    plain = run(files, out=tmp_path / "plain", top=2)
    other = run(files, out=tmp_path / "other", top=2, **options)
    assert other.failures == plain.failures
    for one, two in zip(plain.entries, other.entries, strict=True):
        assert two["confidence"] == pytest.approx(one["confidence"], abs=1e-6)
        assert {**one, "confidence": 0} == {**two, "confidence": 0}
        assert np.array_equal(np.load(tmp_path / "plain" / one["map"]), np.load(tmp_path / "other" / two["map"]))
        assert Image.open(tmp_path / "plain" / one["overlay"]) == Image.open(tmp_path / "other" / two["overlay"])


def test_unreadable_files_are_named_and_the_others_explained(run, files, caplog):
    files[0].write_text("not an image")
    files[2].write_bytes(files[1].read_bytes()[:500])
    files.append(files[0].parent / "gone.jpg")
    with caplog.at_level(logging.WARNING, "tame"):
        report = run(files, batch_size=3)
    assert [entry["file"] for entry in report.entries] == [str(files[1]), str(files[3])]
    assert [failure.file for failure in report.failures] == [str(files[index]) for index in (0, 2, 4)]
    assert caplog.messages == [failure.reason for failure in report.failures]
    for message, file in zip(caplog.messages, (files[0], files[2], files[4]), strict=True):
        assert message.startswith(f"cannot read {file}: ")
        assert "\n" not in message


def test_all_files_unreadable(run, files, tmp_path):
    for file in files:
        file.write_bytes(b"")
    assert len(run(files).failures) == 4
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == []


def test_same_stems_overwrite_nothing(run, write_image, tmp_path):
    names = ["a/cat.png", "b/cat.png", "b/cat.jpg", "c/Cat.png", "d/cat-2.png", "d/" + "x" * 200 + ".png"]
    files = [write_image(tmp_path / name, seed=seed) for seed, name in enumerate(names)]
    entries = run(files, targets=[3]).entries
    assert len({entry["overlay"].lower() for entry in entries}) == len({entry["map"].lower() for entry in entries}) == 6
    assert [entry["overlay"] for entry in entries[:3]] == [f"{name}.overlay.png" for name in ("cat", "cat-2", "cat-3")]
    maps = [np.load(tmp_path / "out" / entry["map"]) for entry in entries]
    assert not np.array_equal(maps[0], maps[1])
    assert all((tmp_path / "out" / entry["overlay"]).is_file() for entry in entries)


def test_many_files_of_one_stem_are_named_by_their_place():
    """With a search for the number of each file, this would take minutes."""
    names = list(_output_names([Path(f"n{place}/image.jpg") for place in range(30_000)]))
    assert names == ["image", *(f"image-{number}" for number in range(2, 30_001))]
    mixed = ["a/x.png", "a/X-2.png", "b/x.png", "c/x.png", "d/x-2.png", "e/x.png"]
    assert list(_output_names(list(map(Path, mixed)))) == ["x", "X-2", "x-3", "x-4", "x-2-2", "x-5"]


@pytest.mark.parametrize("stem", ["\N{CAT}" * 62, "\udcff\x1b[2Jcat", "x" * 250])
def test_names_that_are_long_or_not_printable_are_explained(run, write_image, tmp_path, stem):
    file = write_image(tmp_path / "in" / f"{stem}.png")
    (entry,) = run([file], targets=[3]).entries
    assert entry["file"] == str(file)
    assert entry["map"].isprintable() and (tmp_path / "out" / entry["map"]).is_file()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == [entry]
    assert load_image(entry["file"]) == load_image(file)


def test_several_targets_share_an_overlay(run, files, tmp_path):
    report = run(files[:2], targets=[4, 1, 4])
    assert [(entry["file"], entry["target"]) for entry in report.entries] == [
        (str(file), target) for file in files[:2] for target in (4, 1)
    ]
    assert [entry["overlay"] for entry in report.entries] == ["0.overlay.png"] * 2 + ["1.overlay.png"] * 2
    even, odd = (np.load(tmp_path / "out" / entry["map"]) for entry in report.entries[:2])
    assert np.allclose(even, 1 - odd, atol=1e-6)
    several = Image.open(tmp_path / "out" / "0.overlay.png")
    run(files[:1], targets=[4], out=tmp_path / "one")
    assert several.width > 1.8 * Image.open(tmp_path / "one" / "0.overlay.png").width


def test_most_confident_classes_come_first(run, files, toy_classifier):
    report = run(files[:1], top=5)
    scores = toy_classifier().logits(Crop(36, 32)(load_image(files[0]))[None]).softmax(1)[0]
    assert [entry["target"] for entry in report.entries] == scores.argsort(descending=True).tolist()
    assert sum(entry["confidence"] for entry in report.entries) == pytest.approx(1)


def test_positive_maps_without_contrast_are_all_ones(run, files, tmp_path):
    entry = run(files[:1], explainer=lambda images, targets: torch.full((len(images), 3, 2), 7.0)).entries[0]
    assert np.array_equal(np.load(tmp_path / "out" / entry["map"]), np.ones((3, 2), np.float32))


def test_sizes_are_those_of_the_upright_image(run, write_image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = write_image(tmp_path / "turned.jpg", (90, 40), exif=exif)
    entry = run([turned]).entries[0]
    assert entry["image_size"] == [40, 90]
    assert entry["crop"] == list(crop_box(40, 90, 36, 32))


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (2, 3000)])
def test_images_of_one_pixel_across_are_explained_beside_others(run, write_image, methods, tmp_path, size):
    thin = write_image(tmp_path / "in" / "thin.png", size)
    whole = write_image(tmp_path / "in" / "whole.png")
    report = write_explanations([thin, whole], methods("gradcam", "gradcam++"), out=tmp_path / "out", progress=False)
    assert report.failures == []
    assert [entry["file"] for entry in report.entries] == [str(thin)] * 2 + [str(whole)] * 2
    assert report.entries[0]["image_size"] == list(size)
    assert (tmp_path / "out" / "grid.png").is_file()


@pytest.mark.parametrize("size", [(65000, 1), (1, 20000), (10000, 10)])
def test_very_long_images_are_explained_beside_others(write_image, methods, tmp_path, monkeypatch, size):
    resize = Image.Image.resize

    def small(self, size, *options, **more):
        assert size[0] * size[1] <= 1 << 24, f"resized to {size}"
        return resize(self, size, *options, **more)

    monkeypatch.setattr(Image.Image, "resize", small)
    files = [write_image(tmp_path / "in" / "long.png", size), write_image(tmp_path / "in" / "whole.png")]
    report = write_explanations(files, methods("gradcam", "gradcam++"), out=tmp_path / "out", progress=False)
    assert report.failures == []
    assert [entry["image_size"] for entry in report.entries] == [list(size)] * 2 + [[60, 40]] * 2
    assert (tmp_path / "out" / "grid.png").is_file()


@pytest.mark.parametrize(
    ("step", "error", "reason"),
    [
        ("image_files.prepare_image", MemoryError(), "cannot resize {file}: MemoryError"),
        ("write.draw_explanations", ValueError("no\nsize"), "cannot draw {file}: ValueError: no size"),
    ],
)
def test_an_image_that_cannot_be_resized_or_drawn_is_named_and_the_others_explained(
    methods, files, tmp_path, monkeypatch, caplog, step, error, reason
):
    function = getattr(importlib.import_module(f"tame.inference.{step.partition('.')[0]}"), step.partition(".")[2])

    def fail(first, *others):
        if str(files[1]) in (others[-1] if others else first[0].file):
            raise error
        return function(first, *others)

    monkeypatch.setattr(f"tame.inference.{step}", fail)
    report = write_explanations(files, methods("gradcam", "centre"), out=tmp_path / "out", progress=False)
    assert report.failures == [(str(files[1]), reason.format(file=files[1]))]
    assert report.failures[0].reason in caplog.messages
    assert list(dict.fromkeys(entry["file"] for entry in report.entries)) == [str(files[index]) for index in (0, 2, 3)]
    assert not list((tmp_path / "out").rglob("1.*"))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == report.entries


def test_a_page_that_cannot_be_drawn_is_named_and_everything_else_written(methods, files, tmp_path, monkeypatch):
    monkeypatch.setattr("tame.inference.grids.grid", lambda *given: 1 / 0)
    report = write_explanations(files, methods("gradcam", "centre"), out=tmp_path / "out", progress=False)
    assert report.failures == [("grid.png", "cannot draw grid.png: ZeroDivisionError: division by zero")]
    assert len(report.entries) == 8 and not any("grid" in entry for entry in report.entries)
    assert all((tmp_path / "out" / entry["overlay"]).is_file() for entry in report.entries)


def test_large_images_are_drawn_smaller_and_recorded_at_full_size(run, write_image, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Explanation, "overlay", lambda self: drawn.append(self) or self.image)
    entry = run([write_image(tmp_path / "large.jpg", (2000, 1500))]).entries[0]
    assert entry["image_size"] == [2000, 1500]
    assert entry["crop"] == list(crop_box(2000, 1500, 36, 32))
    assert drawn[0].image.size == (1280, 960)
    monkeypatch.undo()
    left, top, right, bottom = (edge * 0.64 for edge in entry["crop"])
    assert drawn[0].overlay() == overlay(drawn[0].image, drawn[0].map, (left, top, right, bottom))


def test_classifier_of_grey_images(run, files):
    spec = BackboneSpec("grey", nn.Identity, Preprocessing(36, 32, mean=(0.5,), std=(0.5,)), class_names=("a", "b"))
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    seen = []

    def explainer(images, targets):
        seen.append(images.shape)
        return images.mean(1)

    run(files[:2], explainer, FrozenClassifier(spec, module, ["0"]))
    assert seen == [(2, 1, 32, 32)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": []}, "expected at least one image file to explain, got none"),
        ({"targets": [5]}, r"expected a class index in 0\.\.4, got 5"),
        ({"targets": []}, "expected at least one class to explain, .*got none"),
        ({"top": 6}, r"expected top in 1\.\.5, got 6"),
        ({"top": 0}, "expected top of at least 1, got 0"),
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
        (
            {"explainer": lambda images, targets: images},
            r"expected float maps of shape \(4, h, w\), got \(4, 3, 32, 32\)",
        ),
    ],
)
def test_bad_requests(run, files, options, message):
    with pytest.raises(InputError, match=message):
        run(**{"files": files, **options})


def test_out_that_is_a_file(run, files):
    with pytest.raises(InputError, match=r"expected a folder to write to, got .*0\.png: File exists"):
        run(files, out=files[0])


def test_interrupted_run_writes_no_manifest(run, files, tmp_path):
    def explainer(images, targets, calls=[]):  # noqa: B006 - counts the calls
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return images.mean(1)

    with pytest.raises(KeyboardInterrupt):
        run(files, explainer, batch_size=2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"0.overlay.png", "1.overlay.png"} < names
    assert "manifest.json" not in names


@pytest.mark.parametrize(("value", "note"), [(0.0, "no positive evidence"), (float("nan"), "invalid map")])
def test_a_map_without_evidence_is_zero_and_noted(run, files, tmp_path, caplog, value, note):
    report = run(files[:2], lambda images, targets: torch.full((len(images), 4, 4), value))
    assert [entry["note"] for entry in report.entries] == [note] * 2
    assert (np.load(tmp_path / "out" / report.entries[0]["map"]) == 0).all()
    assert f"0.png: {note}, brightness of" in caplog.text


def test_the_manifest_is_json_without_nan(run, files, toy_classifier, tmp_path):
    classifier = toy_classifier()
    with torch.no_grad():
        classifier.module.head.bias.fill_(float("nan"))
    run(files[:1], classifier=classifier, targets=[1])
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert "NaN" not in text and json.loads(text)[0]["confidence"] is None
