from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tame.inference.build
from tame.classifier import FrozenClassifier
from tame.data import Crop, load_image
from tame.explainers.build import build_explainer
from tame.functional.masking import min_max
from tame.inference import explain, explain_files
from tame.inference import explain as explain_function
from tame.utils.checks import InputError
from toys import ToyCNN


@pytest.fixture
def image():
    return np.random.default_rng(0).random((224, 224, 3))


def network(seed=0):
    """A network of the user's own, for images of any size."""
    torch.manual_seed(seed)
    return ToyCNN()


def test_one_image_in_every_form(toy_classifier, noise_files):
    classifier = toy_classifier()
    values = np.asarray(load_image(noise_files[0]))
    forms = [
        noise_files[0], str(noise_files[0]), load_image(noise_files[0]), values, torch.from_numpy(values.copy()),
        values.transpose(2, 0, 1), torch.from_numpy(values.copy()).permute(2, 0, 1) / 255, values / 255.0,
    ]  # fmt: skip
    explanations = [explain(form, classifier, target="DOG", method="centre") for form in forms]
    for form, explanation in zip(forms, explanations, strict=True):
        assert explanation.image == load_image(noise_files[0])
        assert explanation.file == (str(noise_files[0]) if isinstance(form, str | Path) else None)
        assert (explanation.target, explanation.class_name, explanation.method) == (1, "dog", "centre")
        assert explanation.confidence == explanations[0].confidence
        assert explanation.map.min() == 0 and explanation.map.max() == 1
        assert explanation.overlay().size == explanation.image_size == (60, 40)


def test_grey_arrays(toy_classifier):
    values = np.random.default_rng(0).random((40, 50))
    images = [
        explain(form, toy_classifier(), method="centre").image for form in (values, values[None], values[..., None])
    ]
    assert images[0] == images[1] == images[2]
    assert images[0].size == (50, 40)
    assert np.abs(np.asarray(images[0])[..., 1] / 255 - values).max() < 1 / 255


def test_same_answer_as_explain_files(toy_classifier, noise_files, tmp_path):
    classifier = toy_classifier()
    report = explain_files(noise_files[:1], backbone=classifier, method="centre", out=tmp_path / "out", progress=False)
    (entry,) = report.entries
    assert explain(noise_files[0], classifier, method="centre").entry(entry["map"], entry["overlay"]) == entry


def test_calling_in_a_loop_builds_once(toy_classifier, noise_files, built):
    classifier = toy_classifier()
    for file in noise_files:
        explain(file, classifier, method="centre")
    assert len(built) == 1
    explain(noise_files[0], classifier, method="random")
    assert len(built) == 2


def test_saved_explanation(toy_classifier, noise_files, tmp_path):
    explanation = explain(noise_files[0], toy_classifier(), target=2, method="centre")
    path = explanation.save(tmp_path / "new")
    assert path == tmp_path / "new" / "0.2.overlay.png"
    assert np.array_equal(np.load(tmp_path / "new" / "0.2.npy"), explanation.map)
    in_memory = explain(load_image(noise_files[0]), toy_classifier(), 2, method="centre")
    assert in_memory.save(tmp_path).name == "explanation.2.overlay.png"
    assert explanation._repr_png_() == path.read_bytes()
    assert explanation.title == f"bird (2) {100 * explanation.confidence:.1f} %"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 20, 20)), r"expected an image of shape \(C, H, W\) or \(H, W, C\) .* got \(4, 20, 20\)"),
        (np.zeros((1, 1, 3, 20, 20)), r"got \(1, 1, 3, 20, 20\)"),
        (torch.randn(3, 20, 20), r"expected an image in \[0, 1\], got values in \[-"),
        (np.zeros((20, 20, 3), np.int64), r"expected an image of uint8, or of floats in \[0, 1\], got int64"),
        (np.zeros((0, 20, 3), np.uint8), r"expected an image of .* got uint8 \(0, 20, 3\)"),
        ("absent.jpg", r"cannot read absent\.jpg: No such file"),
    ],
)
def test_bad_images(toy_classifier, image, message):
    with pytest.raises(InputError, match=message):
        explain(image, toy_classifier(), method="centre")


def test_unknown_class(toy_classifier, noise_files):
    with pytest.raises(InputError, match="unknown class 'doge' for toy_cnn; similar names: 'dog' "):
        explain(noise_files[0], toy_classifier(), target="doge", method="centre")


# --- a network of one's own


def test_a_plain_network(image):
    module = network()
    explanation = explain(image, module, 3, method="gradcam")
    assert (explanation.backbone, explanation.target, explanation.class_name) == ("ToyCNN", 3, "class 3")
    classifier = FrozenClassifier.from_module(module)
    inputs = Crop.of(classifier.spec.preprocessing)(explanation.image)[None]
    expected = min_max(build_explainer(classifier, "gradcam")(inputs, torch.tensor([3])))[0]
    assert np.array_equal(explanation.map, expected.numpy())
    assert explanation.confidence == pytest.approx(float(classifier.logits(inputs).softmax(1)[0, 3]))
    assert module.training  # the network is left as it is


def test_two_networks_of_one_class_have_their_own_maps(image, built):
    one, two = network(0), network(1)
    maps = [explain(image, module, 3, method="gradcam").map for module in (one, two, one, one)]
    assert not np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])
    assert np.array_equal(maps[0], maps[3])
    assert len(built) == 3


def test_a_network_that_changed_is_looked_at_again(image, built):
    module = network()
    before = explain(image, module, 3, method="gradcam")
    with torch.no_grad():
        module.stage3[0].weight.mul_(-1)  # as an optimiser does
    trained = explain(image, module, 3, method="gradcam")
    assert not np.array_equal(before.map, trained.map)
    module.train()
    assert np.array_equal(explain(image, module, 3, method="gradcam").map, trained.map)
    assert module.training
    module.head = nn.Linear(16, 2)
    with pytest.raises(InputError, match=r"expected a class index in 0\.\.1, got 3"):
        explain(image, module, 3, method="gradcam")
    assert len(built) == 3


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_layers_and_device_of_a_network(image, device):
    map_ = explain(image, network(), method="layercam", layers=["stage1", "stage2"], device=device).map
    assert map_.shape == (56, 56)
    assert explain(image, FrozenClassifier.from_module(network()), method="layercam", layers="stage1").map.shape == (
        112,
        112,
    )


def test_an_unusable_classifier(noise_files):
    with pytest.raises(InputError, match="expected a classifier .*, got int"):
        explain(noise_files[0], 5)


def test_it_is_a_public_name():
    assert tame.explain is explain_function
    assert tame.Explanation is tame.inference.Explanation
