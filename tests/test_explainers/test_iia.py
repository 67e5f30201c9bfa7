"""IIA: the reference numbers, literal twins, both halves of the repair, networks that cannot be served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from cam_reference import assert_close, tiny_cnn
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing, TokenLayout
from tame.explainers import CheckedExplainer, build_explainer
from tame.explainers.iia.attention import AttentionIIA, normalised_row
from tame.explainers.iia.maps import ReleasedIIA, RepairedIIA
from tame.explainers.iia.steps import image_steps
from tame.options import MethodOptions
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
        found = ReleasedIIA(toy_classifier(), layer, number=4, batch_size=batch_size)(images(), TARGETS)
        before, behind = toy_halves(classifier := toy_classifier(), layer)
        for index, target in enumerate(TARGETS.tolist()):
            image, total = classifier.normalise(images()[[index]]), torch.zeros(())
            for i in range(5):
                values = before(i / 4 * image)
                total = total + (gradient(behind, values, target) * values.relu()).sum(1)[0]
            assert_close(found[index], total)

    def test_repaired(self, toy_classifier: Make, layer: str, batch_size: int) -> None:
        found = RepairedIIA(toy_classifier(), layer, number=4, batch_size=batch_size)(images(), TARGETS)
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
        explainer: Any = build_explainer(toy_classifier(kind), MethodOptions(method))
        explainer.batch_size = batch_size
        maps.append(explainer(images(), TARGETS))
        for other in maps[1:]:
            assert_close(other, maps[0])


@pytest.mark.parametrize("layer", ["stage2", "stage2.0"])
@pytest.mark.parametrize("method", ["iia", "iia_released"])
def test_half_precision(toy_classifier: Make, method: str, layer: str) -> None:
    """Under autocast the map of a CNN is still float32 and about the same."""
    explainer = build_explainer(toy_classifier(), MethodOptions(method, cam_layer=layer))
    exact = explainer(images(), TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = explainer(images(), TARGETS)
    assert rough.dtype == torch.float32
    assert_close(rough, exact, 0.05)


@pytest.mark.parametrize("method", ["iia", "iia_released"])
def test_other_sizes(toy_classifier: Make, method: str) -> None:
    explainer = build_explainer(toy_classifier(), MethodOptions(method))
    assert explainer(images(2, 40, 24), TARGETS[:2]).shape == (2, 5, 3)
    assert explainer(images(0), TARGETS[:0]).shape == (0, 4, 4)


def test_which_form(toy_classifier: Make) -> None:
    cnn, vit = toy_classifier(), toy_classifier("vit")
    kinds = {
        (name, method): type(build_explainer(classifier, MethodOptions(method))).__name__
        for name, classifier in (("cnn", cnn), ("vit", vit))
        for method in ("iia", "iia_released")
    }
    assert kinds == {
        ("cnn", "iia"): "RepairedIIA",
        ("cnn", "iia_released"): "ReleasedIIA",
        ("vit", "iia"): "AttentionIIA",
        ("vit", "iia_released"): "AttentionIIA",
    }
    asked = build_explainer(cnn, MethodOptions("iia", cam_layer="stage2"))
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
        found = RepairedIIA(classifier, "branch", number=2, batch_size=batch_size)(given, torch.tensor(targets))
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
        explainer = RepairedIIA(classifier, "stage2", number=3, batch_size=8)
        rows: dict[str, list[int]] = {"stage1.0": [], "stage3.0": []}
        for name, seen in rows.items():
            part = classifier.module.get_submodule(name)
            part.register_forward_pre_hook(lambda _module, args, seen=seen: seen.append(len(args[0])))
        explainer(images(2), TARGETS[:2])
        assert rows == {"stage1.0": [8], "stage3.0": 4 * [8]}  # two images at 4 steps, then 2 * 4 * 4 values


class TestTransformers:
    def test_literal_twin(self, toy_classifier: Make) -> None:
        """One image and one pair of steps at a time, with attention computed in the open."""
        classifier = toy_classifier("vit")
        found = AttentionIIA(classifier, number=2)(images(2), TARGETS[:2])
        for index, target in enumerate(TARGETS[:2].tolist()):
            expected = literal_attention_map(classifier, images()[[index]], target, 2)
            assert_close(found[index], expected.view(4, 4))

    def test_rows_by_hand(self) -> None:
        maps = torch.rand(3, 2, 5, 5)
        product = torch.eye(5).expand(2, 5, 5)
        for weights in maps:
            step = torch.eye(5) + weights
            product = (step / step.sum(-1, keepdim=True)) @ product
        torch.testing.assert_close(normalised_row(maps), product[:, 0])

    def test_half_precision_changes_nothing(self, toy_classifier: Make) -> None:
        explainer = AttentionIIA(toy_classifier("vit"))
        exact = explainer(images(), TARGETS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(explainer(images(), TARGETS), exact)

    def test_timm(self) -> None:
        timm = pytest.importorskip("timm")
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
        net = timm.models.VisionTransformer(**sizes, num_classes=5)
        spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple("abcde"), tokens=TokenLayout(1, (4, 4)))
        nn.init.normal_(net.head.weight)
        maps = AttentionIIA(FrozenClassifier(spec, net, ["blocks.1.norm1"]))(images(), TARGETS)
        assert maps.shape == (5, 4, 4) and maps.std((1, 2)).min() > 0

    def test_without_a_class_token(self, toy_classifier: Make) -> None:
        classifier = toy_classifier()
        with pytest.raises(InputError, match=r"expected a transformer whose class token is classified, .*got ToyCNN"):
            AttentionIIA(classifier)


def literal_attention_map(classifier: FrozenClassifier, image: Tensor, target: int, number: int) -> Tensor:
    net: Any = classifier.module

    def run(tokens: Tensor, last: Tensor | None) -> tuple[list[Tensor], Tensor]:
        attentions = []
        for block in net.encoder.layers:
            part, normed = block.self_attention, block.ln_1(tokens)
            weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
            split = [
                (normed @ weight.T + bias).unflatten(-1, (part.num_heads, -1)).transpose(1, 2)
                for weight, bias in zip(weights, biases, strict=True)
            ]
            attention = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
            if last is not None and block is net.encoder.layers[-1]:
                attention = last.detach()
            attention = attention if attention.requires_grad else attention.requires_grad_()
            attentions.append(attention)
            tokens = tokens + part.out_proj((attention @ split[2]).transpose(1, 2).flatten(2))
            tokens = tokens + block.mlp(block.ln_2(tokens))
        return attentions, net.heads(net.encoder.ln(tokens)[:, 0])

    sums = torch.zeros(3, 17, 17)
    for i in range(number + 1):
        patches = net._process_input(i / number * classifier.normalise(image))
        tokens = torch.cat([net.class_token, patches], 1) + net.encoder.pos_embedding
        final = run(tokens, None)[0][-1]
        for j in range(number + 1):
            attentions, logits = run(tokens, j / number * final)
            gradients = torch.autograd.grad(logits[0, target], attentions)
            for block, (attention, slope) in enumerate(zip(attentions, gradients, strict=True)):
                sums[block] += (attention * slope).clamp(min=0).mean(1)[0].detach()
    product = torch.eye(17)
    for weights in sums / (number + 1) ** 2:
        step = torch.eye(17) + weights
        product = step / step.sum(-1, keepdim=True) @ product
    return product[0, 1:]


@pytest.mark.parametrize("explainer", [ReleasedIIA, RepairedIIA])
def test_errors(toy_classifier: Make, explainer: Callable[..., CheckedExplainer]) -> None:
    with pytest.raises(InputError, match="expected at least 1 step and 1 image per pass, got 0 and 32"):
        explainer(toy_classifier(), "stage3", number=0)
    with pytest.raises(InputError, match="expected at least 1 step and 1 image per pass, got 10 and 0"):
        explainer(toy_classifier(), "stage3", batch_size=0)
    with pytest.raises(InputError, match="'stag3' is no layer of ToyCNN; near names: stage3"):
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


def reference_maps(
    build: Callable[[FrozenClassifier], CheckedExplainer], case: dict[str, Any], precision: str
) -> Tensor:
    """Explain the stored input, unchecked: it leaves [0, 1] a little."""
    tokens = "vit_config" in case
    module = VisionTransformer(**case["vit_config"]) if tokens else tiny_cnn()
    module.load_state_dict(case["state_dict"])
    layout = TokenLayout(1, (4, 4)) if tokens else None
    spec = BackboneSpec("tiny", nn.Identity, Preprocessing(32, 32), tuple(map(str, range(10))), tokens=layout)
    explainer = build(FrozenClassifier(spec, module, ["encoder.ln" if tokens else "stage3"]))
    classifier = explainer.classifier.to(torch.float64 if precision == "f64" else torch.float32)
    given = case["input"].to(classifier.mean) * classifier.std + classifier.mean
    return explainer.explain(given, case["targets"])


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


@pytest.mark.shared
@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-5), ("f64", 1e-6)])
def test_reference_attention(reference: dict[str, Any], precision: str, tolerance: float) -> None:
    expected = reference["vit"][precision]["iia_map"]
    assert_close(reference_maps(AttentionIIA, reference["vit"], precision), expected, tolerance)
