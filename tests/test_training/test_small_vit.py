"""A real vision transformer that is one's own: described in a spec, trained and explained."""

import pytest
import torch
from torchvision.models import VisionTransformer

from tame.attention import TAME
from tame.attention.initialise import initialise_from_gradients
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.backbones.torchvision import torchvision_spec
from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
from tame.classifier.gradients import class_gradients
from tame.data import Crop, load_image
from tame.functional.masking import rank_scale
from tame.inference import bundled_images
from tame.training.optim import build_optimizer, build_schedule

pytestmark = [pytest.mark.shared, pytest.mark.slow]

LAYERS = tuple(f"encoder.layers.encoder_layer_{index}.ln_1" for index in (9, 10, 11))


def deit_tiny():
    return VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=1000
    )


DEIT_TINY = BackboneSpec(
    name="deit_tiny",
    build=deit_tiny,
    preprocessing=Preprocessing(resize=256, crop=224, interpolation="bicubic"),
    class_names=torchvision_spec("resnet50").class_names,
    layers={"proposed": LAYERS},
    masking="vit",
    tokens=TokenLayout(prefix=1, grid=(14, 14)),
)


@pytest.fixture(scope="module")
def classifier(shared_dir):
    weights = shared_dir / "data" / "weights" / "deit_tiny_patch16_224_torchvision.pth"
    return load_backbone(DEIT_TINY, str(weights))


@pytest.fixture(scope="module")
def images(shared_dir):
    """Return a cat, a cup of coffee, and six photographs of ImageNet."""
    folder = shared_dir / "data" / "imagenet_mini" / "ILSVRC2012_img_val"
    files = bundled_images() + sorted(folder.glob("*.JPEG"))[:6]
    crop = Crop.of(DEIT_TINY.preprocessing)
    return torch.stack([crop(load_image(file)) for file in files])


@pytest.fixture(scope="module")
def gradients(classifier, images):
    return class_gradients(classifier, [images[:4]])


@pytest.fixture
def model(classifier, images, gradients):
    """Return a mechanism that starts where the classifier is."""
    made = ExplainedClassifier(classifier, TAME(classifier.channels, 1000))
    with torch.no_grad():
        outputs = classifier(images)
    targets = outputs.logits.argmax(1)
    initialise_from_gradients(made.attention, gradients.rows, gradients.branch, outputs.features, targets)
    return made


def test_from_weights_to_an_explanation(classifier, images, gradients, model):
    with torch.no_grad():
        outputs = classifier(images)
    targets = outputs.logits.argmax(1)
    assert "cat" in DEIT_TINY.class_names[targets[0]].lower()
    assert [feature.shape for feature in outputs.features] == [(8, 192, 14, 14)] * 3

    assert gradients.branch == 2  # the norm before the last attention: patches still reach the logits there
    assert gradients.rows.shape == (1000, 192)
    start = model.maps(images, targets).detach()
    assert start.std((1, 2)).mean() == pytest.approx(1, abs=1e-3)
    assert start.std((1, 2)).min() > 0.1

    loss = AttentionLoss("released")
    optimizer = build_optimizer(model.attention, 1e-3)
    schedule = build_schedule(optimizer, 1e-3, total_steps=3)
    model.train()
    for step in range(3):
        terms = loss(model.training_pass(images[:4], "batch"))
        assert terms["total"].isfinite(), step
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        if step < 2:
            schedule.step()
    model.eval()
    with torch.no_grad():
        (cat,) = model.maps(images[:1], targets[:1])
    assert cat.shape == (14, 14)
    assert cat.isfinite().all() and cat.std() > 0.05
    other = model.maps(images[:1], torch.tensor([0]))[0]
    assert not torch.allclose(cat, other)


def test_the_map_shows_what_the_classifier_needs(classifier, images, model):
    """The half of the patches that the initialised map prefers says more than the other half."""
    targets = classifier.logits(images).argmax(1)
    with torch.no_grad():
        upper = (rank_scale(model.maps(images, targets)) >= 0.5).float()
        scores = [
            classifier.masked_logits(images, masks).softmax(1).gather(1, targets.unsqueeze(1)).mean()
            for masks in (upper, 1 - upper)
        ]
    assert scores[0] > scores[1]
