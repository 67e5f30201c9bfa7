"""Two recorded optimiser steps of the authors' program, repeated through this one."""

import pytest
import torch
from torchvision import models

from tame.attention import LCAM, TAME
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.functional.masking import min_max
from tame.training.optim import build_optimizer, build_schedule

pytestmark = pytest.mark.shared

NAMES = tuple(str(index) for index in range(1000))
BLOCKS = tuple(f"encoder.layers.encoder_layer_{index}" for index in (9, 10, 11))


def small_vit():
    return models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=1000
    )


SPECS = {
    "resnet18": BackboneSpec("resnet18", lambda: models.resnet18(weights=None), Preprocessing(256, 224), NAMES),
    "lcam": BackboneSpec(
        "shufflenet_v2_x0_5", lambda: models.shufflenet_v2_x0_5(weights=None), Preprocessing(256, 224), NAMES
    ),
    "vit": BackboneSpec(
        "vit_b_16",
        small_vit,
        Preprocessing(256, 224, mean=(0.0,) * 3, std=(1.0,) * 3),  # its recorded images are normalised already
        NAMES,
        masking="vit",
        tokens=TokenLayout(prefix=1, grid=(14, 14)),
        layer_aliases={f"{block}.ln": f"{block}.ln_1" for block in BLOCKS},
    ),
}


@pytest.fixture(scope="module", params=SPECS)
def case(request, shared_dir):
    """Return the frozen backbone, the recorded numbers, and the attention's weights after the steps."""
    folder, spec = shared_dir / "reference" / "authors_program", SPECS[request.param]
    expected = torch.load(folder / f"checkpoint_{request.param}_expected.pt", weights_only=True)
    saved = torch.load(folder / f"checkpoint_{request.param}.ckpt", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = spec.build()
    body = part_of(saved["state_dict"], "generic.body.")
    if body:
        module.load_state_dict(body)
    classifier = FrozenClassifier(spec, module, saved["hyper_parameters"]["layers"])
    return classifier, expected, part_of(saved["state_dict"], "generic.attn_mech.")


def part_of(state, prefix):
    """Return the entries below ``prefix``; a transformer's adapter adds another ``1.``."""
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key.removeprefix("1."): value for key, value in found.items()}


def explained(classifier, state):
    if "op.weight" in state:
        attention = LCAM(classifier.channels, 1000)
    else:
        attention = TAME(classifier.channels, 1000, output_size="first")
    attention.load_state_dict(state)
    return ExplainedClassifier(classifier, attention)


def test_two_recorded_steps_land_on_the_recorded_weights(case):
    classifier, expected, after = case
    model = explained(classifier, part_of(expected["initial_attn_state_dict"], "")).train()
    images = expected.get("train_images")
    images = expected["train_images_uint8"] / 255 if images is None else images
    loss = AttentionLoss("released")
    optimizer = build_optimizer(model.attention, 1e-3)
    schedule = build_schedule(optimizer, 1e-3, total_steps=8)
    for batch, logged in zip(images.split(2), expected["train_log"], strict=True):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(logged["lr"])
        assert [group["momentum"] for group in optimizer.param_groups] == pytest.approx(logged["momentum"])
        result = model.training_pass(batch, "batch")
        assert result.targets.tolist() == list(logged["labels"])
        torch.testing.assert_close(result.maps, logged["masks"], atol=1e-5, rtol=0)
        torch.testing.assert_close(result.masked_logits[:, :50], logged["logits"], atol=1e-4, rtol=1e-4)
        terms = loss(result)
        recorded = {"total": "loss", "cross_entropy": "ce", "area": "mean", "variation": "var"}
        assert {name: terms[name].item() for name in recorded} == pytest.approx(
            {name: logged[key] for name, key in recorded.items()}, rel=1e-4
        )
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        schedule.step()
    found = model.attention.state_dict()
    assert set(found) == set(after)
    for name, value in after.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=lambda text, name=name: name + text)
    moved = part_of(expected["initial_attn_state_dict"], "")
    assert any((after[name] - moved[name]).abs().max() > 1e-5 for name in after)  # the steps were no trifle


def test_maps_of_a_checkpoint_of_the_authors_program(case):
    classifier, expected, after = case
    model = explained(classifier, after).eval()
    images = expected["images"]
    with torch.no_grad():
        logits, features = classifier(images)
        torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=1e-4)
        targets = logits.argmax(1)
        assert torch.equal(targets, expected["model_truth"])
        confidence = logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(confidence, expected["confidence"].flatten(), atol=1e-4, rtol=0)
        maps = model.maps(images, targets)
        other = model.maps(images, expected["other_classes"])
        of_batch = model.attention(features, targets).sigmoid()
    torch.testing.assert_close(maps, expected["c_model_truth_raw"][:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(min_max(maps), expected["maps_model_truth_minmax"][:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(min_max(other), expected["maps_other_minmax"][:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.sigmoid(), expected["a_diagonal"][:, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(of_batch, expected["a_random"], atol=1e-4, rtol=0)
