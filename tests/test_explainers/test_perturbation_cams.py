"""Score-CAM and Ablation-CAM: hand values, literal twins, the grad-cam library, the reference numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from brightness import brightness_classifier
from cam_reference import CASES, assert_close, finish, library_maps, load_case, without_in_place
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.classifier.extractor import hooked_outputs
from tame.classifier.gradients import as_map
from tame.explainers import build_explainer
from tame.explainers.cams import layer_output
from tame.explainers.perturbation_cams import AblationCAM, PerturbationCAM, ScoreCAM
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
NORM = "encoder.layers.encoder_layer_{}.ln_1"
TARGETS = torch.tensor([4, 1, 2, 0])
LAYERS = [  # two have negative values
    *(("cnn", layer) for layer in ("stage1.1", "stage2", "stage3.0", "stage3")),
    *(("vit", NORM.format(block)) for block in (0, 2)),
]


def images(batch: int = 4, side: int = 32) -> Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def rows_per_pass(classifier: FrozenClassifier, part: str = "") -> list[int]:
    """Return a list that fills with the rows of every pass through a part of the classifier."""
    rows: list[int] = []
    module = classifier.module.get_submodule(part)
    module.register_forward_hook(lambda _module, args, _output: rows.append(len(args[0])))
    return rows


def test_scorecam_by_hand() -> None:
    """The mask of a channel is the stretched channel itself, the logit the sum of all masked pixels."""
    given = images(side=4)
    maps = ScoreCAM(brightness_classifier(side=4), "0")(given, torch.tensor([0, 0, 0, 1]))
    low, high = given.amin((2, 3), keepdim=True), given.amax((2, 3), keepdim=True)
    masks = (given - low) / (high - low)
    weights = torch.einsum("bchw,bdhw->bc", masks, given).softmax(1)
    torch.testing.assert_close(maps[:3], torch.einsum("bc,bchw->bhw", weights, given)[:3])
    torch.testing.assert_close(maps[3], given[3].mean(0))  # class 1 does not depend on the image


def literal_scorecam(classifier: FrozenClassifier, layer: str, image: Tensor, target: int) -> Tensor:
    """One channel after the other, every pixel of a mask from its four neighbours."""
    activations = layer_output(classifier, layer, image.unsqueeze(0))[0]
    (height, width), side = activations.shape[1:], image.shape[-1]
    scores = []
    for channel in activations:
        mask = torch.zeros(side, side)
        for row in range(side):
            for column in range(side):
                y, x = row * (height - 1) / (side - 1), column * (width - 1) / (side - 1)  # corners on corners
                top, left = min(int(y), height - 2), min(int(x), width - 2)
                y, x = y - top, x - left
                upper = (1 - x) * channel[top, left] + x * channel[top, left + 1]
                lower = (1 - x) * channel[top + 1, left] + x * channel[top + 1, left + 1]
                mask[row, column] = (1 - y) * upper + y * lower
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        normalised = (image - classifier.mean[0]) / classifier.std[0]
        scores.append(float(classifier.module((normalised * mask).unsqueeze(0))[0, target]))
    return (torch.tensor(scores).softmax(0).view(-1, 1, 1) * activations).sum(0).clamp(min=0)


@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage3.0"), ("vit", NORM.format(1))])
def test_scorecam_literal_twin(toy_classifier: Make, kind: str, layer: str) -> None:
    """Also where the backbone's own masking is of the plain image."""
    classifier = toy_classifier(kind)
    maps = ScoreCAM(classifier, layer)(images(2), TARGETS[:2])
    for index in range(2):
        assert_close(maps[index], literal_scorecam(classifier, layer, images()[index], int(TARGETS[index])))


def test_flat_channels_mask_everything() -> None:
    """A flat channel gives no NaN, and rounding does not become a mask."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((5, 5)), nn.Flatten(), nn.Linear(100, 2))
    assert isinstance(net[0], nn.Conv2d) and net[0].bias is not None
    nn.init.zeros_(net[0].weight)
    nn.init.normal_(net[0].weight[0])
    spec = BackboneSpec("flat", nn.Identity, Preprocessing(17, 17), class_names=("a", "b"))
    classifier = FrozenClassifier(spec, net, ["0"])
    explainer = ScoreCAM(classifier, "0")
    activations = layer_output(classifier, "0", images(2, 17))
    assert activations[:, 1:].flatten(2).std(2).eq(0).all() and activations[:, 1:].ne(0).any()
    weights = explainer.weights(images(2, 17), TARGETS[2:] // 2, activations)
    blank = classifier.module(torch.zeros(1, 3, 17, 17))[0]
    mask = F.interpolate(activations[:, :1], (17, 17), mode="bilinear", align_corners=True)
    mask = (mask - mask.amin((2, 3), keepdim=True)) / (mask.amax((2, 3)) - mask.amin((2, 3)) + 1e-8)[..., None, None]
    first = classifier.module(classifier.normalise(images(2, 17)) * mask)
    for index, target in enumerate(TARGETS[2:] // 2):
        scores = torch.stack([first[index, target], *[blank[target]] * 3])
        torch.testing.assert_close(weights[index], scores.softmax(0))
    assert explainer(images(2, 17), TARGETS[2:] // 2).isfinite().all()


def test_ablationcam_by_hand() -> None:
    """Each image has a pixel of 0, so a channel is set to 0 and its share of the sum is lost."""
    given = images(side=4)
    given[:, 0, 0, 0] = 0
    maps = AblationCAM(brightness_classifier(side=4), "0")(given, torch.tensor([0, 0, 0, 1]))
    sums = given.sum((2, 3))
    shares = (sums / sums.sum(1, keepdim=True))[..., None, None]
    torch.testing.assert_close(maps[:3], (shares * given).sum(1)[:3])
    assert maps[3].eq(0).all()  # its logit is exactly 0


def test_ablationcam_far_below_the_minimum() -> None:
    """Without a 0 in the image the channel is set to 1e7 below the minimum; a map of negative weight is 0."""
    given = images(side=4) / 2 + 0.5
    explainer = AblationCAM(brightness_classifier(side=4), "0")
    weights = explainer.weights(explainer.split.before(given), torch.zeros(4, dtype=torch.int64), (4, 4))
    sums, low = given.sum((2, 3)), given.amin((1, 2, 3)).unsqueeze(1)
    torch.testing.assert_close(weights, (sums - 16 * (low - 1e7)) / sums.sum(1, keepdim=True))


def literal_weights(classifier: FrozenClassifier, layer: str, image: Tensor, target: int, every: int = 1) -> Tensor:
    """Ablate every n-th channel by running the whole network, one at a time."""
    inputs = classifier.normalise(image.unsqueeze(0))
    output: Tensor = hooked_outputs(classifier.module, (layer,), inputs)[0]
    value = 0.0 if float(output.min()) == 0 else float(output.min()) - 1e7
    whole, weights = float(classifier.module(inputs)[0, target]), []
    for channel in range(0, output.shape[1 if output.ndim == 4 else 2], every):
        changed = output.clone()
        if changed.ndim == 4:
            changed[:, channel] = value
        else:
            changed[:, :, channel] = value
        handle = classifier.module.get_submodule(layer).register_forward_hook(lambda *_, changed=changed: changed)
        weights.append((whole - float(classifier.module(inputs)[0, target])) / whole)
        handle.remove()
    return torch.tensor(weights)


@pytest.mark.parametrize(("kind", "layer"), [*LAYERS, ("vit", "encoder.layers.encoder_layer_1")])
def test_ablationcam_equals_the_whole_network(toy_classifier: Make, kind: str, layer: str) -> None:
    classifier = toy_classifier(kind)
    explainer = AblationCAM(classifier, layer)
    maps, values = explainer(images(), TARGETS), explainer.split.before(images())
    weights, activations = explainer.weights(values, TARGETS, (32, 32)), as_map(classifier, values[0])
    for index in range(4):
        expected = literal_weights(classifier, layer, images()[index], int(TARGETS[index]))
        assert_close(weights[index], expected)
        assert_close(maps[index], (expected.view(-1, 1, 1) * activations[index]).sum(0).clamp(min=0))


@pytest.mark.parametrize("layer", ["layer3", "layer4.0.conv1", "layer4.0.bn2", "layer4.1.bn1", "layer4"])
def test_ablationcam_around_a_residual_connection(layer: str) -> None:
    torch.manual_seed(0)
    spec = BackboneSpec("net", nn.Identity, Preprocessing(64, 64), class_names=tuple(map(str, range(10))))
    classifier = FrozenClassifier(spec, resnet18(num_classes=10), [layer])
    given, targets = images(2, 64), torch.tensor([3, 7])
    explainer = AblationCAM(classifier, layer, batch_size=100)
    weights = explainer.weights(explainer.split.before(given), targets, (64, 64))
    for index in range(2):
        expected = literal_weights(classifier, layer, given[index], int(targets[index]), every=40)
        torch.testing.assert_close(weights[index, ::40], expected, rtol=0, atol=1e-5)  # shares of the logit


def test_ablationcam_runs_nothing_again_before_the_layer(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    explainer = AblationCAM(classifier, "stage2", batch_size=20)
    early, late = rows_per_pass(classifier, "stage1.0"), rows_per_pass(classifier, "stage3.0")
    explainer(images(), TARGETS)
    assert early == [4] and late == [4, 20, 20, 8]  # 4 images of 12 channels


def test_scorecam_runs_full_batches(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    explainer = ScoreCAM(classifier, "stage2", batch_size=20)
    rows = rows_per_pass(classifier)
    explainer(images(), TARGETS)
    assert rows == [4, 20, 20, 8]


@pytest.mark.parametrize("cam", [ScoreCAM, AblationCAM])
@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage2"), ("vit", NORM.format(2))])
def test_the_batch_size_does_not_matter(
    toy_classifier: Make, cam: type[PerturbationCAM], kind: str, layer: str
) -> None:
    classifier = toy_classifier(kind)
    expected = cam(classifier, layer)(images(), TARGETS)
    for size in (1, 5, 1000):
        assert_close(cam(classifier, layer, size)(images(), TARGETS), expected)
    with pytest.raises(InputError, match="expected a batch size of 1 or more, got 0"):
        cam(classifier, layer, 0)


@pytest.mark.parametrize("cam", [ScoreCAM, AblationCAM])
@pytest.mark.parametrize(("kind", "layer"), LAYERS)
def test_against_the_library(toy_classifier: Make, cam: type[PerturbationCAM], kind: str, layer: str) -> None:
    import pytorch_grad_cam

    classifier = without_in_place(toy_classifier(kind))
    ours = cam(classifier, layer)(images(), TARGETS)
    theirs = library_maps(getattr(pytorch_grad_cam, cam.__name__), classifier, layer, images(), TARGETS)
    torch.testing.assert_close(finish(ours), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cam", [ScoreCAM, AblationCAM])
def test_other_sizes_than_the_crop(toy_classifier: Make, cam: type[PerturbationCAM]) -> None:
    given = torch.rand(2, 3, 48, 40)
    explainer = cam(toy_classifier(), "stage2")
    whole = explainer(given, TARGETS[:2])
    assert whole.shape == (2, 12, 10)
    assert_close(torch.cat([explainer(given[[i]], TARGETS[[i]]) for i in range(2)]), whole)


@pytest.mark.parametrize(("method", "cam"), [("scorecam", ScoreCAM), ("ablationcam", AblationCAM)])
def test_which_layer(toy_classifier: Make, method: str, cam: type[PerturbationCAM]) -> None:
    vit = toy_classifier("vit")
    found = build_explainer(vit, method)
    asked = build_explainer(vit, method, layer="encoder.layers.encoder_layer_1.ln")
    assert isinstance(found, cam) and found.layer == NORM.format(2)
    assert isinstance(asked, cam) and asked.layer == NORM.format(1)


@pytest.mark.parametrize("name", CASES)
def test_reference_scorecam(shared_dir: Path, name: str) -> None:
    case = load_case(shared_dir, name)
    expected = case.expected["scorecam"]
    explainer = ScoreCAM(case.classifier, case.layer)
    activations = layer_output(case.classifier, case.layer, case.images)
    assert_close(explainer.weights(case.images, case.targets, activations), expected["weights"])
    maps = explainer.explain(case.images, case.targets)
    assert_close(maps, expected["raw"].relu())
    torch.testing.assert_close(finish(maps), expected["final"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_reference_ablationcam(shared_dir: Path, name: str) -> None:
    case = load_case(shared_dir, name)
    expected = case.expected["ablationcam"]
    explainer = AblationCAM(case.classifier, case.layer)
    weights = explainer.weights(explainer.split.before(case.images), case.targets, (32, 32))
    assert_close(weights, expected["weights"])
    maps = explainer.explain(case.images, case.targets)
    assert_close(maps, expected["raw"].relu())
    torch.testing.assert_close(finish(maps), expected["final"], rtol=0, atol=1e-4)
