"""Networks without gradients or layers: the cause is named, and methods that need neither explain them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.evaluation.evaluate import evaluate
from tame.evaluation.records import open_run
from tame.explainers import build_explainer
from tame.inference import explain
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN, seeded

SPEC = seeded(TOY_SPECS["cnn"])


class Detached(ToyCNN):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


class NoGrad(ToyCNN):
    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


class Inference(ToyCNN):
    @torch.inference_mode()
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs)


def like_toy(kind: type[ToyCNN]) -> nn.Module:
    module = kind()
    module.load_state_dict(SPEC.build().state_dict())
    return module.eval()


def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(SPEC.build().eval(), {nn.Linear}, torch.qint8)


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "detached": (lambda: like_toy(Detached), "detaches its logits or runs under torch.no_grad: they have no gradients"),
    "no_grad": (lambda: like_toy(NoGrad), "detaches its logits or runs under torch.no_grad: they have no gradients"),
    "inference_mode": (lambda: like_toy(Inference), "runs under torch.inference_mode: its logits have no gradients"),
    "scripted": (lambda: torch.jit.script(SPEC.build().eval()), "is a TorchScript network, whose layers cannot be"),
    "traced": (
        lambda: torch.jit.trace(SPEC.build().eval(), torch.zeros(1, 3, 32, 32)),
        "is a TorchScript network, whose layers cannot be",
    ),
    "quantised": (quantised, "is quantised: its operations have no gradients"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_methods_without_gradients_explain_it_and_others_name_the_cause(kind: str, toy_images: Tensor) -> None:
    build, cause = KINDS[kind]
    classifier = FrozenClassifier.from_module(build(), preprocess=SPEC.preprocessing, name="net")
    plain = FrozenClassifier(SPEC, SPEC.build(), ("stage2",))
    close = 1e-1 if kind == "quantised" else 1e-5
    targets = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(classifier.logits(toy_images), plain.logits(toy_images), rtol=close, atol=close)
    for method in ("rise", "centre"):
        arguments = {"masks": 8} if method == "rise" else {}
        maps = build_explainer(classifier, method, **arguments)(toy_images, targets)
        expected = build_explainer(plain, method, **arguments)(toy_images, targets)
        torch.testing.assert_close(maps, expected, rtol=close, atol=close)
    with pytest.raises(InputError, match=f"^net {cause}"):
        build_explainer(classifier, "gradcam")
    with pytest.raises(InputError, match=f"^net {cause}"):
        _ = classifier.layers


@pytest.mark.parametrize("kind", ["detached", "no_grad", "inference_mode", "quantised"])
def test_layers_that_are_named_do_not_hide_the_cause(kind: str, toy_images: Tensor) -> None:
    build, cause = KINDS[kind]
    classifier = FrozenClassifier.from_module(build(), ["stage2", "stage3"], SPEC.preprocessing, name="net")
    with pytest.raises(InputError, match=f"^net {cause}"):
        build_explainer(classifier, "gradcam")(toy_images, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(InputError, match=f"^net {cause}"):
        build_explainer(classifier, "integrated_gradients")(toy_images, torch.tensor([0, 1, 2, 3]))


def test_it_is_explained_and_evaluated_without_layers(photographs: Path, tmp_path: Path) -> None:
    classifier = FrozenClassifier.from_module(like_toy(NoGrad), preprocess=SPEC.preprocessing)
    assert explain(photographs / "00.png", classifier, method="rise", masks=8).map.shape == (32, 32)
    explainer = build_explainer(classifier, "centre")
    evaluate(explainer, data=photographs, out=tmp_path / "run", limit_images=4)
    run = open_run(next(path.parent for path in (tmp_path / "run").rglob("summary.json")))
    assert run.summary.settings["layers"] == [] and run.summary.images == 4
    assert copy.deepcopy(classifier).no_layers == classifier.no_layers
