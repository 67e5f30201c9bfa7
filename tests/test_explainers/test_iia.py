"""IIA: the reference numbers, literal twins, both halves of the repair, networks that cannot be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cam_reference import assert_close
from iia_reference import reference_maps
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.explainers import CheckedExplainer, build_explainer
from tame.explainers.iia.maps import ReleasedIIA, RepairedIIA
from tame.explainers.iia.steps import image_steps
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0, 3])
PARTS = {"stage1": 3, "stage2.0": 4, "stage2": 6, "stage3": 9}  # up to the layer's end; 2.0 has negative values


def images(batch: int = 5, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def without_in_place(classifier: FrozenClassifier) -> FrozenClassifier:
    for part in classifier.module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return classifier


def toy_halves(classifier: FrozenClassifier, layer: str) -> tuple[nn.Sequential, Callable[[Tensor], Tensor]]:
    """The toy CNN up to a layer, and from there."""
    net: Any = without_in_place(classifier).module
    parts, at = [*net.stage1, *net.stage2, *net.stage3], PARTS[layer]
    return nn.Sequential(*parts[:at]), lambda values: net.head(nn.Sequential(*parts[at:])(values).mean((2, 3)))


def gradient(behind: Callable[[Tensor], Tensor], values: Tensor, target: int) -> Tensor:
    leaf = values.detach().clone().requires_grad_()
    return torch.autograd.grad(behind(leaf)[0, target], leaf)[0]


@pytest.mark.parametrize("layer", PARTS)
@pytest.mark.parametrize("batch_size", [1, 7, 32])
class TestLiteralTwins:
    """One image and one step at a time; the batch sizes cut images and steps in many ways."""

    def test_released(self, toy_classifier: Make, layer: str, batch_size: int) -> None:
        found = ReleasedIIA(toy_classifier(), layer, steps=4, batch_size=batch_size)(images(), TARGETS)
        before, behind = toy_halves(classifier := toy_classifier(), layer)
        for index, target in enumerate(TARGETS.tolist()):
            image, total = classifier.normalise(images()[[index]]), torch.zeros(())
            for i in range(5):
                values = before(i / 4 * image)
                total = total + (gradient(behind, values, target) * values.relu()).sum(1)[0]
            assert_close(found[index], total)

    def test_repaired(self, toy_classifier: Make, layer: str, batch_size: int) -> None:
        found = RepairedIIA(toy_classifier(), layer, steps=4, batch_size=batch_size)(images(), TARGETS)
        before, behind = toy_halves(classifier := toy_classifier(), layer)
        for index, target in enumerate(TARGETS.tolist()):
            image, total = classifier.normalise(images()[[index]]), torch.zeros(())
            way = [before(i / 4 * image) for i in range(5)]
            low = torch.stack(way).amin(0)
            for values in way:
                for j in range(5):
                    point = low + j / 4 * (values - low)
                    weights = (point - low if j else point).relu()
                    total = total + (gradient(behind, point, target) * weights).sum(1)[0]
            assert_close(found[index], total)


def test_by_hand() -> None:
    """A linear network: G is the head's row, so the released map is the row's sum of activations over the steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    spec = BackboneSpec("line", nn.Identity, Preprocessing(4, 4), class_names=("a", "b"))
    classifier = FrozenClassifier(spec, net, ["1"])
    given = images(2, 4, 4)
    way = [net[1](net[0](i / 10 * classifier.normalise(given))) for i in range(11)]
    rows = net[4].weight[[1, 0]].view(2, 4, 1, 1) / 16  # the mean over 4 x 4 positions
    targets = torch.tensor([1, 0])
    assert_close(ReleasedIIA(classifier, "1")(given, targets), (rows * sum(way)).sum(1))
    low = torch.stack(way).amin(0)
    # each way from r to A_i counts r once, then shares 0.1 ... 1 of the difference, 5.5 in all
    assert_close(RepairedIIA(classifier, "1")(given, targets), (rows * sum(low + 5.5 * (v - low) for v in way)).sum(1))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("method", ["iia", "iia_released"])
def test_batch_size_does_not_matter(toy_classifier: Make, kind: str, method: str) -> None:
    maps = []
    for batch_size in (1, 3, 16, 1_000_000):
        explainer: Any = build_explainer(toy_classifier(kind), method)
        explainer.batch_size = batch_size
        maps.append(explainer(images(), TARGETS))
        for other in maps[1:]:
            assert_close(other, maps[0])


@pytest.mark.parametrize("layer", ["stage2", "stage2.0"])
@pytest.mark.parametrize("method", ["iia", "iia_released"])
def test_half_precision(toy_classifier: Make, method: str, layer: str) -> None:
    """Under autocast the map of a CNN is still float32 and about the same."""
    explainer = build_explainer(toy_classifier(), method, layer=layer)
    exact = explainer(images(), TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = explainer(images(), TARGETS)
    assert rough.dtype == torch.float32
    assert_close(rough, exact, 0.05)


@pytest.mark.parametrize("method", ["iia", "iia_released"])
def test_other_sizes(toy_classifier: Make, method: str) -> None:
    explainer = build_explainer(toy_classifier(), method)
    assert explainer(images(2, 40, 24), TARGETS[:2]).shape == (2, 5, 3)
    assert explainer(images(0), TARGETS[:0]).shape == (0, 4, 4)


def test_which_form(toy_classifier: Make) -> None:
    cnn, vit = toy_classifier(), toy_classifier("vit")
    kinds = {
        (name, method): type(build_explainer(classifier, method)).__name__
        for name, classifier in (("cnn", cnn), ("vit", vit))
        for method in ("iia", "iia_released")
    }
    assert kinds == {
        ("cnn", "iia"): "RepairedIIA",
        ("cnn", "iia_released"): "ReleasedIIA",
        ("vit", "iia"): "AttentionIIA",
        ("vit", "iia_released"): "AttentionIIA",
    }
    asked = build_explainer(cnn, "iia", layer="stage2")
    assert asked(images(), TARGETS).shape == (5, 8, 8)


class Block(nn.Module):
    """A residual block: half of what reaches the logits does not pass through ``branch``."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8 if join == "cat" else 4, 3)
        self.join = join

    def forward(self, inputs: Tensor) -> Tensor:
        skip = self.act(self.stem(inputs))
        branch = self.act(self.branch(skip))
        joined = torch.cat([skip, branch], 1) if self.join == "cat" else skip * branch.sigmoid()
        return self.head((joined * joined).mean((2, 3)))


class TestCut:
    @pytest.mark.parametrize("batch_size", [3, 40])
    def test_each_step_has_its_own_bypass(self, batch_size: int) -> None:
        torch.manual_seed(0)
        spec = BackboneSpec("residual", nn.Identity, Preprocessing(8, 8), class_names=("a", "b", "c"))
        net, given, targets = Block("multiply"), images(2, 8, 8), [0, 2]
        classifier = FrozenClassifier(spec, net, ["branch"])
        found = RepairedIIA(classifier, "branch", steps=2, batch_size=batch_size)(given, torch.tensor(targets))
        for index, target in enumerate(targets):
            skips = [net.stem(i / 2 * classifier.normalise(given[[index]])).relu() for i in range(3)]
            way, total = [net.branch(skip) for skip in skips], torch.zeros(())
            low = torch.stack(way).amin(0)
            for skip, values in zip(skips, way, strict=True):

                def behind(branch: Tensor, skip: Tensor = skip) -> Tensor:
                    return net.head((skip * branch.relu().sigmoid()).square().mean((2, 3)))

                for j in range(3):
                    point = low + j / 2 * (values - low)
                    weights = (point - low if j else point).relu()
                    total = total + (gradient(behind, point, target) * weights).sum(1)[0]
            assert_close(found[index], total)

    def test_nothing_runs_again_before_the_layer(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        explainer = RepairedIIA(classifier, "stage2", steps=3, batch_size=8)
        rows: dict[str, list[int]] = {"stage1.0": [], "stage3.0": []}
        for name, seen in rows.items():
            part = classifier.module.get_submodule(name)
            part.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(len(args[0])))
        explainer(images(2), TARGETS[:2])
        assert rows == {"stage1.0": [8], "stage3.0": 4 * [8]}  # two images at 4 steps, then 2 * 4 * 4 values


@pytest.mark.parametrize("explainer", [ReleasedIIA, RepairedIIA])
def test_errors(toy_classifier: Make, explainer: Callable[..., CheckedExplainer]) -> None:
    with pytest.raises(InputError, match="expected at least 1 step and 1 image per pass, got 0 and 32"):
        explainer(toy_classifier(), "stage3", steps=0)
    with pytest.raises(InputError, match="expected at least 1 step and 1 image per pass, got 10 and 0"):
        explainer(toy_classifier(), "stage3", batch_size=0)
    with pytest.raises(InputError, match="'stag3' is not a layer of ToyCNN; similar names: stage3"):
        explainer(toy_classifier(), "stag3")


def test_steps_stay_images(toy_classifier: Make) -> None:
    classifier = toy_classifier()
    rows = image_steps(classifier, images(2), torch.tensor([0.0, 0.5, 1.0])).unflatten(0, (3, 2))
    torch.testing.assert_close(classifier.normalise(rows[1]), classifier.normalise(images(2)) / 2)
    torch.testing.assert_close(rows[2], images(2))
    assert torch.equal(rows[0], classifier.mean.expand(2, 3, 32, 32))


# The reference numbers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, Any]:
    return torch.load(shared_dir / "reference" / "iia.pt", weights_only=True)


@pytest.mark.shared
@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f64", 1e-6)])
@pytest.mark.parametrize(("name", "layer"), [("last", "stage3"), ("prev", "stage2")])
class TestReferenceMaps:
    def test_released(self, reference: dict[str, Any], precision: str, tolerance: float, name: str, layer: str) -> None:
        maps = reference_maps(lambda classifier: ReleasedIIA(classifier, layer), reference["cnn"], precision)
        expected = reference["cnn"][precision][f"double_{name}_map"]
        assert_close(maps.to(expected), expected, tolerance)

    def test_repaired(self, reference: dict[str, Any], precision: str, tolerance: float, name: str, layer: str) -> None:
        maps = reference_maps(lambda classifier: RepairedIIA(classifier, layer), reference["cnn"], precision)
        expected = reference["cnn"][precision][f"NOT_OFFICIAL_double_{name}_min_over_image_steps_map"]
        assert_close(maps.to(expected), expected, tolerance)
