"""The reference numbers of the CAMs, and how the library finishes a map."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from toys import TOY_SPECS, ToyCNN

CASES = {  # name: kind of network, layer
    "cnn_stage3": ("cnn", "stage3"),
    "cnn_stage2_prerelu": ("cnn", "stage2.bn"),
    "vit_last_ln_1": ("vit", "encoder.layers.encoder_layer_2.ln_1"),
}


class Case(NamedTuple):
    """One layer of one network; ``images`` leave [0, 1] a little, so explain them unchecked."""

    classifier: FrozenClassifier
    layer: str
    images: Tensor
    targets: Tensor
    logits: Tensor
    expected: dict[str, Any]


def tiny_cnn() -> nn.Module:
    def stage(inputs: int, outputs: int, pool: bool) -> nn.Sequential:
        parts: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(inputs, outputs, 3, padding=1)),
            ("bn", nn.BatchNorm2d(outputs)),
            ("relu", nn.ReLU()),
        ]
        return nn.Sequential(OrderedDict([*parts, ("pool", nn.MaxPool2d(2))] if pool else parts))

    return nn.Sequential(
        OrderedDict(
            stage1=stage(3, 8, True),
            stage2=stage(8, 12, True),
            stage3=stage(12, 16, False),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(16, 10),
        )
    )


def load_case(shared_dir: Path, name: str) -> Case:
    reference = torch.load(shared_dir / "reference" / "gradcam.pt", weights_only=True)
    kind, layer = CASES[name]
    module = tiny_cnn() if kind == "cnn" else VisionTransformer(**reference["vit_config"])
    module.load_state_dict(reference[f"{kind}_state_dict"])
    spec = BackboneSpec(
        name=kind,
        build=nn.Identity,
        preprocessing=Preprocessing(32, 32),
        class_names=tuple(map(str, range(10))),
        tokens=None if kind == "cnn" else TokenLayout(prefix=1, grid=(4, 4)),
    )
    classifier = FrozenClassifier(spec, module, [layer])
    images = reference["input"] * classifier.std + classifier.mean  # the stored input is normalised
    expected = reference["results"][name]
    return Case(classifier, layer, images, reference[f"{kind}_targets"], reference[f"{kind}_logits"], expected)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Compare up to a fraction of the largest expected value."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def finish(maps: Tensor, size: tuple[int, int] = (32, 32)) -> Tensor:
    """ReLU, stretch, resize and stretch again, as the library does."""

    def stretch(values: Tensor) -> Tensor:
        values = values - values.amin((1, 2), keepdim=True)
        return values / (1e-7 + values.amax((1, 2), keepdim=True))

    large = F.interpolate(stretch(maps.relu()).unsqueeze(1), size, mode="bilinear", align_corners=False)[:, 0]
    return stretch(large.relu())


def library_maps(cam: Any, classifier: FrozenClassifier, layer: str, images: Tensor, targets: Tensor) -> Tensor:
    """Return the finished maps of a class of the library `grad-cam`, whose classifier has no in-place activation."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier.module.requires_grad_()  # the library fails on a frozen one
    tokens = classifier.spec.tokens
    with cam(classifier.module, [classifier.module.get_submodule(layer)], tokens and tokens.to_map) as theirs:
        if hasattr(theirs, "ablation_layer"):
            from pytorch_grad_cam.ablation_layer import AblationLayerVit

            theirs.batch_size = 1  # else the value changes from row to row
            theirs.ablation_layer = AblationLayerVit() if tokens else theirs.ablation_layer
        wanted = [ClassifierOutputTarget(int(target)) for target in targets]
        return torch.from_numpy(theirs.forward(classifier.normalise(images), wanted))


def without_in_place(classifier: FrozenClassifier) -> FrozenClassifier:
    """Return the same classifier, changed: the library cannot hook before an in-place activation."""
    for part in classifier.module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return classifier


class ChannelsLast(ToyCNN):
    """The toy CNN; ``last``, the output of its second stage, is (B, h, w, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        second = self.last(self.stage2(self.stage1(inputs)).permute(0, 2, 3, 1))
        return self.head(self.stage3(second.permute(0, 3, 1, 2)).mean((2, 3)))


def both_layouts() -> list[FrozenClassifier]:
    """Return classifiers of the same weights and target layer, with its channels last and first."""
    found = []
    for build, layer in ((ChannelsLast, "last"), (ToyCNN, "stage2")):
        torch.manual_seed(0)
        found.append(FrozenClassifier(replace(TOY_SPECS["cnn"], cam_layer=layer), build(), [layer]))
    return found
