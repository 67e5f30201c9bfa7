"""Checkpoints that the authors' program wrote, with the maps and logits that it recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

import tame.checkpoints.classifier
import tame.checkpoints.convert
from authors_files import use
from tame.backbones import load_backbone
from tame.checkpoints.convert import convert_checkpoint
from tame.checkpoints.native import read_metadata
from tame.classifier import BackboneSpec, Preprocessing, TokenLayout
from tame.explainers.learned import LearnedExplainer
from tame.functional.masking import min_max


def small_vit() -> models.VisionTransformer:
    return models.VisionTransformer(
        image_size=224, patch_size=16, num_layers=12, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=1000
    )


SMALL_VIT = BackboneSpec(
    "vit_b_16",
    small_vit,
    Preprocessing(256, 224),
    tuple(map(str, range(1000))),
    masking="vit",
    tokens=TokenLayout(prefix=1, grid=(14, 14)),
)
RECORDED = {  # backbone, method, and weights where the file has none
    "resnet18": ("resnet18", "ttame", "random"),
    "shufflenet_lightning212": ("shufflenet_v2_x0_5", "ttame", None),
    "lcam": ("shufflenet_v2_x0_5", "lcam_img", None),
    "vit": ("vit_b_16", "ttame", None),
}


@pytest.mark.parametrize(
    ("case", "converted"), [*((case, True) for case in RECORDED), ("shufflenet_lightning212", False), ("vit", False)]
)
def test_recorded_maps_and_logits(
    case: str, converted: bool, shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, method, weights = RECORDED[case]
    if case == "vit":
        monkeypatch.setattr(tame.checkpoints.convert, "find_spec", lambda name: SMALL_VIT)
        monkeypatch.setattr(tame.checkpoints.classifier, "find_spec", lambda name, overrides: SMALL_VIT)
    file = shared_dir / "reference" / "authors_program" / f"checkpoint_{case}.ckpt"
    expected = torch.load(file.with_name(f"checkpoint_{case}_expected.pt"), weights_only=True)
    checkpoint = convert_checkpoint(file, weights="random", out=tmp_path) if converted else file
    classifier, explainer = use(checkpoint, backbone, method, weights=weights)
    assert isinstance(explainer, LearnedExplainer)
    images = expected["images"]
    if read_metadata(checkpoint)["hyper_parameters"]["train_method"] != "raw_normalize":
        images = images * classifier.std + classifier.mean
    torch.testing.assert_close(classifier.logits(images), expected["logits"], atol=1e-4, rtol=0)
    assert torch.equal(classifier.logits(images).argmax(1), expected["model_truth"])
    asked = {"model_truth": expected["model_truth"], "other": torch.as_tensor(expected["other_classes"])}
    for name, targets in asked.items():
        maps = explainer.explain(images, targets)
        torch.testing.assert_close(
            min_max(maps), expected[f"maps_{name}_minmax"].squeeze(1), atol=1e-4, rtol=0, msg=lambda m: f"{case}: {m}"
        )
    if converted and case == "shufflenet_lightning212":
        given = load_backbone(backbone, "random")
        changed = {key for key, value in given.module.state_dict().items() if "running" in key}
        recorded = {key for key in expected["changed_backbone_tensors"] if "num_batches" not in key}
        assert (changed, len(expected["changed_backbone_tensors"])) == (recorded, 168)
