import inspect
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tame.inference.build
from tame.backbones import load_backbone
from tame.classifier import FrozenClassifier
from tame.data import Crop, load_image
from tame.explainers.build import build_explainer
from tame.functional.masking import min_max
from tame.inference import bundled_images, collect_images, explain_files
from tame.utils.checks import InputError
from toys import ToyCNN

# --- arguments


def test_collected_images(tmp_path, write_image):
    inner = [write_image(tmp_path / "folder" / name) for name in ("b.png", "sub/a.JPG")]
    odd = tmp_path / "photo.xyz"
    odd.touch()
    assert collect_images([odd, str(tmp_path / "folder"), inner[0]]) == [odd, *inner]
    with pytest.raises(InputError, match=r"expected an image file or a folder of images, got .*gone\.jpg, which does"):
        collect_images([tmp_path / "gone.jpg"])
    shutil.rmtree(tmp_path / "folder" / "sub")
    inner[0].unlink()
    with pytest.raises(InputError, match="expected images .* in .*folder or its subfolders, got none"):
        collect_images([tmp_path / "folder"])


def test_bundled_images_can_be_read():
    images = bundled_images()
    assert len(images) >= 2
    assert all(min(load_image(path).size) >= 224 for path in images)


def test_the_bundled_images_are_the_default(toy_backbone, explained):
    entries = explained(backbone=toy_backbone, method="centre")
    assert [entry["file"] for entry in entries] == list(map(str, bundled_images()))


def test_folders_of_images(toy_backbone, files, explained):
    entries = explained(files[0].parent, backbone=toy_backbone, method="centre")
    assert [entry["file"] for entry in entries] == list(map(str, files))


@pytest.mark.parametrize("target", [["dog", 3], ("1", "fish"), "dog", 1, (name for name in ("dog", "fish"))])
def test_targets_in_every_form(toy_backbone, files, explained, target):
    single = isinstance(target, str | int)
    entries = explained(files[0], backbone=toy_backbone, method="centre", target=target)
    assert [entry["target"] for entry in entries] == ([1] if single else [1, 3])


def test_one_value_in_the_place_of_several(toy_backbone, files, explained):
    one = explained(*files[:1], backbone=toy_backbone, method="gradcam")
    many = explained(*files[:1], backbone=[toy_backbone], method=("gradcam",), out="other")
    assert one == many
    report = explain_files(str(files[0]), backbone=toy_backbone, method="gradcam", device="cpu", progress=False)
    assert report.entries == one


def test_arguments_of_methods(toy_backbone, files, explained):
    arguments = {"rise": {"masks": 4}, "layercam": {"layer": "stage1"}}
    entries = explained(files[0], backbone=toy_backbone, method=["rise", "layercam", "centre"], arguments=arguments)
    classifier = load_backbone(toy_backbone)
    image = Crop.of(classifier.spec.preprocessing)(load_image(files[0]))[None]
    for entry in entries[:2]:
        explainer = build_explainer(classifier, entry["method"], **arguments[entry["method"]])
        expected = min_max(explainer(image, torch.tensor([entry["target"]])))[0].numpy()
        assert np.array_equal(np.load(Path("explanations", entry["map"])), expected)


def test_a_checkpoint_among_the_arguments(trained, toy_backbone, files, explained):
    low, high = (trained(toy_backbone, f"runs/{name}", [name]) for name in ("stage1", "stage3"))
    for method, name, used in (
        ("ttame", "ttame", high),
        (f"ttame@{low}", "ttame", low),
        (f"ttame@{low}",) * 2 + (low,),
    ):
        (entry,) = explained(
            files[0], backbone=toy_backbone, method=method, arguments={name: {"checkpoint": high}}, out="other"
        )
        (alone,) = explained(files[0], backbone=toy_backbone, checkpoint=used)
        assert np.array_equal(np.load(Path("other", entry["map"])), np.load(Path("explanations", alone["map"])))


def test_arguments_of_the_classifier(toy_backbone, files, explained):
    names = ["a", "b", "c", "d", "e"]
    (entry,) = explained(files[0], backbone=toy_backbone, method="centre", class_names=names, target=["d"])
    assert (entry["class_name"], entry["target"]) == ("d", 3)


def test_without_a_method_each_backbone_has_its_own(trained, toy_backbone, toy_vit, files, explained, caplog):
    run = trained(toy_backbone)
    with caplog.at_level(logging.WARNING, "tame"):
        entries = explained(files[0], backbone=[toy_backbone, toy_vit], checkpoint=run)
    assert [(entry["backbone"], entry["method"]) for entry in entries] == [
        (toy_backbone, "ttame"),
        (toy_vit, "gradcam"),
    ]
    (message,) = caplog.messages
    assert message.startswith(
        "No trained explainer is shipped for toy_vit: explaining with Grad-CAM. Train T-TAME with"
    )


def test_networks_of_ones_own(files, explained, pages):
    networks = [FrozenClassifier.from_module(ToyCNN(), name=name) for name in ("mine", "yours")]
    entries = explained(files[0], backbone=networks, method="gradcam")
    assert [entry["overlay"] for entry in entries] == ["mine/00.overlay.png", "yours/00.overlay.png"]
    assert pages[0][1] == ["image", "mine", "yours"]
    plain = networks[0].module
    (alone,) = explained(files[0], backbone=plain, method="gradcam", target=entries[0]["target"], out="alone")
    assert alone["backbone"] == "ToyCNN"
    assert np.array_equal(np.load(Path("alone", alone["map"])), np.load(Path("explanations", entries[0]["map"])))


def test_it_is_a_public_name():
    assert tame.explain_files is explain_files


# --- refusals


BAD = {
    "unknown method": ({"method": ["centre", "gradcan"]}, "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "twice": ({"method": ["centre", "centre"]}, "expected methods of different names, got centre, centre"),
    "none": ({"method": []}, "expected methods of different names, got none"),
    "unknown backbone": ({"backbone": ["toy_cnn", "resnet5"]}, "unknown backbone 'resnet5'"),
    "one backbone twice": ({"backbone": ["toy_cnn", "toy_cnn"]}, "expected backbones of different names, got toy_cnn,"),
    "no backbone": ({"backbone": []}, "expected backbones of different names, got none"),
    "no checkpoint": ({"method": ["centre", "ttame"]}, "no explainer for toy_cnn comes with this package"),
    "of one backbone": (
        {"backbone": ["toy_vit", "toy_cnn"], "method": ["centre", "transformer_lrp"]},
        "expected a transformer whose class token is classified",
    ),
    "no such checkpoint": (
        {"backbone": ["toy_cnn", "toy_vit"], "method": "ttame", "checkpoint": ["a", "b"]},
        "no checkpoint at a",
    ),
    "checkpoint of no use": (
        {"method": ["centre", "gradcam"], "checkpoint": "a"},
        "expected a trained method such as ttame for the checkpoint a, got centre, gradcam",
    ),
    "unknown argument": ({"method": "rise", "arguments": {"rise": {"mask": 3}}}, "rise takes no argument 'mask'"),
    "argument of another method": (
        {"method": ["centre", "random"], "arguments": {"rise": {"masks": 3}}},
        "expected arguments of centre, random, got some of rise",
    ),
    "unknown argument of the classifier": ({"weight": "random"}, "takes no argument 'weight'; did you mean 'weights'?"),
    "unknown class": ({"target": ["cat", "doge"]}, "unknown class 'doge' for toy_cnn; similar names: 'dog' "),
    "class out of range": ({"target": [5]}, "expected a class index in 0..4, got 5"),
    "top out of range": ({"top": 6}, "expected top in 1..5, got 6"),
    "no classes": ({"top": 0}, "expected top of at least 1, got 0"),
    "batch size": ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
    "unknown preset": ({"preset": "papers"}, "unknown preset 'papers'"),
}


@pytest.mark.parametrize("case", BAD)
def test_unusable_requests(toy_backbone, toy_vit, files, refused, monkeypatch, case):
    arguments, message = BAD[case]
    if case not in ("no checkpoint", "of one backbone"):  # these are noticed by the methods themselves
        _load_nothing(monkeypatch)
    assert message in refused(*files, **{"backbone": toy_backbone, **arguments})


def _load_nothing(monkeypatch):
    def load(*given, **arguments):
        pytest.fail("was loaded")

    load.__signature__ = inspect.signature(tame.inference.build.load_classifier)
    monkeypatch.setattr(tame.inference.build, "load_classifier", load)


def test_an_unknown_method_is_noticed_before_anything_is_loaded(toy_backbone, files, refused, monkeypatch):
    _load_nothing(monkeypatch)
    monkeypatch.setattr(tame.inference.build, "find_spec", lambda *given: pytest.fail("was looked up"))
    assert "unknown method 'nothing'" in refused(*files, backbone=toy_backbone, method=["centre", "nothing"])


def test_checkpoints_of_no_backbone_or_of_one_twice(trained, toy_backbone, toy_vit, refused):
    run = trained(toy_backbone)
    others = ["efficientnet_lite0", "toy_vit"]
    assert refused(backbone=others, checkpoint=run).endswith(
        "the checkpoint runs/toy_cnn was trained for backbone toy_cnn, not efficientnet_lite0 or toy_vit"
    )
    both = [toy_backbone, toy_vit]
    assert refused(backbone=both, checkpoint=[run, run]).endswith(
        "expected one checkpoint for backbone toy_cnn, got runs/toy_cnn and runs/toy_cnn"
    )


def test_weights_of_a_network_that_is_loaded(toy_classifier, files, refused):
    message = refused(*files, backbone=toy_classifier(), method="centre", weights="random")
    assert message.startswith("expected weights only for a classifier that is loaded by name, got a FrozenClassifier")
    message = refused(*files, backbone=[toy_classifier(), toy_classifier(seed=1)], method="centre")
    assert message.startswith("expected backbones of different names, got toy_cnn, toy_cnn; a network is named by")
