"""RISE: masks and maps against the reference, literal twins, what is kept and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brightness import brightness_classifier
from cam_reference import tiny_cnn
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.explainers import build_explainer
from tame.explainers.rise import PUBLISHED_MASKS, RISE, RandomMasks, draw_masks
from tame.presets import PRESETS
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
TARGETS = torch.tensor([4, 1, 2, 0, 3])


def images(batch: int = 5, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def fixed(masks: RandomMasks) -> Callable[[tuple[int, int]], RandomMasks]:
    return lambda size: masks


def literal_mask(grid: list[list[float]], shift: tuple[int, int], size: tuple[int, int]) -> list[list[float]]:
    """One mask, pixel by pixel."""
    cells = len(grid)

    def taps(offset: int, side: int) -> list[tuple[int, int, float]]:  # two cells and the share of the second
        found = []
        for pixel in range(offset, offset + side):
            place = (pixel + 0.5) * cells / ((cells + 1) * math.ceil(side / cells)) - 0.5
            place = -place if place < 0 else place
            place = 2 * (cells - 1) - place if place > cells - 1 else place
            low = min(int(place), cells - 2)
            found.append((low, low + 1, place - low))
        return found

    return [
        [
            (1 - v) * ((1 - h) * grid[top][left] + h * grid[top][right])
            + v * ((1 - h) * grid[bottom][left] + h * grid[bottom][right])
            for left, right, h in taps(shift[1], size[1])
        ]
        for top, bottom, v in taps(shift[0], size[0])
    ]


class TestMasks:
    @pytest.mark.parametrize("size", [(32, 32), (20, 45), (7, 8), (5, 3)])
    @pytest.mark.parametrize("cells", [2, 7])
    def test_literal_twin(self, size: tuple[int, int], cells: int) -> None:
        masks = draw_masks(6, size, cells=cells)
        expected = [
            literal_mask(grid, (row, column), size)
            for grid, (row, column) in zip(masks.grids.float().tolist(), masks.shifts.tolist(), strict=True)
        ]
        torch.testing.assert_close(masks.render(0, 6), torch.tensor(expected), rtol=0, atol=1e-6)

    def test_inside_it_is_the_usual_bilinear_resize(self) -> None:
        masks = draw_masks(4, (56, 56))
        large = F.interpolate(masks.grids.float().unsqueeze(1), (64, 64), mode="bilinear", align_corners=False)[:, 0]
        for mask, whole, (row, column) in zip(masks.render(0, 4), large, masks.shifts.tolist(), strict=True):
            crop = whole[row : row + 56, column : column + 56]
            torch.testing.assert_close(mask[8:-8, 8:-8], crop[8:-8, 8:-8])

    def test_parts_are_the_whole(self) -> None:
        masks = draw_masks(7, (32, 24))
        parts = [masks.render(start, start + 3) for start in range(0, 7, 3)]
        assert [len(part) for part in parts] == [3, 3, 1]
        assert torch.equal(torch.cat(parts), masks.render(0, 7))
        assert masks.render(0, 2, torch.float64).dtype == torch.float64

    def test_half_is_visible_everywhere(self) -> None:
        masks = draw_masks(4000, (16, 16)).render(0, 4000)
        assert float(masks.min()) >= 0 and float(masks.max()) <= 1
        torch.testing.assert_close(masks.mean(0), torch.full((16, 16), 0.5), rtol=0, atol=0.04)
        assert (draw_masks(4000, (16, 16), p1=0.1).render(0, 4000).mean() - 0.1).abs() < 0.01

    def test_the_same_seed_the_same_masks(self) -> None:
        state = torch.get_rng_state()
        first = draw_masks(9, (32, 32), seed=3)
        draw_masks(9, (16, 40), seed=3)
        draw_masks.cache_clear()
        torch.rand(5)
        again = draw_masks(9, (32, 32), seed=3)
        assert torch.equal(first.grids, again.grids) and torch.equal(first.shifts, again.shifts)
        assert not torch.equal(first.grids, draw_masks(9, (32, 32), seed=4).grids)
        torch.set_rng_state(state)
        before = torch.rand(3)
        torch.set_rng_state(state)
        draw_masks(9, (31, 31))
        assert torch.equal(torch.rand(3), before)  # the global generator does not move

    def test_every_shift_is_drawn(self) -> None:
        shifts = draw_masks(500, (21, 56)).shifts  # cells of 3 x 8 pixels
        assert sorted(set(shifts[:, 0].tolist())) == [0, 1, 2]
        assert sorted(set(shifts[:, 1].tolist())) == list(range(8))

    def test_once_per_size_and_small(self) -> None:
        masks = draw_masks(PUBLISHED_MASKS, (224, 224))
        assert draw_masks(PUBLISHED_MASKS, (224, 224)) is masks
        assert masks.grids.nbytes + masks.shifts.nbytes < 600_000  # 8000 masks would take 1.6 GB


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("batch_size", [1, 6, 64])
def test_literal_twin(toy_classifier: Make, kind: str, batch_size: int) -> None:
    """One image and one mask at a time; 11 masks are never a whole number of passes."""
    classifier = toy_classifier(kind)
    found = RISE(classifier, 11, batch_size)(images(), TARGETS)
    masks = draw_masks(11, (32, 32)).render(0, 11)
    for image, target, saliency in zip(classifier.normalise(images()), TARGETS, found, strict=True):
        total = torch.zeros(32, 32)
        for mask in masks:
            total += classifier.module((mask * image).unsqueeze(0)).softmax(1)[0, target] * mask
        torch.testing.assert_close(saliency, total / (11 * 0.5), rtol=0, atol=1e-6)


def test_by_hand() -> None:
    """What is seen fully keeps its confidence p: the map is p / p1; hidden images give an empty map."""
    classifier = brightness_classifier(side=4)
    given, targets = images(2, 4, 4), torch.tensor([0, 1])
    seen = RandomMasks(torch.ones(3, 7, 7, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.int64), (4, 4))
    confidence = classifier.logits(given).softmax(1).diagonal().view(2, 1, 1)
    maps = RISE(classifier, draw=fixed(seen))(given, targets)
    torch.testing.assert_close(maps, (confidence / 0.5).expand(2, 4, 4))
    hidden = seen._replace(grids=torch.zeros(3, 7, 7, dtype=torch.bool))
    assert RISE(classifier, draw=fixed(hidden))(given, targets).eq(0).all()


def test_hidden_is_the_mean_colour() -> None:
    """Masks act on the normalised image, whatever the backbone's masking: hidden images score as the mean does."""
    classifier = brightness_classifier(side=4, mean=0.3, std=0.5)
    one = torch.zeros(1, 7, 7, dtype=torch.bool)
    one[0, 3, 3] = True
    masks = RandomMasks(one, torch.tensor([[0, 0]]), (4, 4))
    given, mask = images(1, 4, 4), masks.render(0, 1)
    seen = 0.3 + mask.unsqueeze(1) * (given - 0.3)
    expected = classifier.logits(seen).softmax(1)[:, :1].unsqueeze(2) * mask / 0.5
    torch.testing.assert_close(RISE(classifier, draw=fixed(masks))(given, torch.tensor([0])), expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40), (33, 17)])
def test_batch_size_does_not_matter(toy_classifier: Make, height: int, width: int) -> None:
    classifier, given = toy_classifier(), images(5, height, width)
    maps = [RISE(classifier, 23, batch_size)(given, TARGETS) for batch_size in (1, 3, 5, 16, 500)]
    assert maps[0].shape == (5, height, width)
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=0, atol=1e-6)


def test_sizes_take_turns(toy_classifier: Make) -> None:
    explainer = RISE(toy_classifier(), 9)
    square, wide = images(2, 32, 32), images(2, 24, 40)
    first = explainer(square, TARGETS[:2]), explainer(wide, TARGETS[:2])
    assert torch.equal(explainer(square, TARGETS[:2]), first[0])
    assert torch.equal(explainer(wide, TARGETS[:2]), first[1])


@pytest.mark.parametrize(("batch", "batch_size", "passes"), [(2, 8, 3), (5, 4, 13), (3, 8, 5), (1, 100, 1)])
def test_rows_per_pass(toy_classifier: Make, batch: int, batch_size: int, passes: int) -> None:
    """Several masked copies of several images per pass, never more than asked, each once."""
    classifier, rows = toy_classifier(), list[int]()
    handle = classifier.module.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    RISE(classifier, 10, batch_size)(images(batch), TARGETS[:batch])
    handle.remove()
    assert sum(rows) == 10 * batch and max(rows) <= batch_size and len(rows) == passes


def test_no_image(toy_classifier: Make) -> None:
    assert RISE(toy_classifier(), 3)(images(0), TARGETS[:0]).shape == (0, 32, 32)


def test_half_precision(toy_classifier: Make) -> None:
    """Under autocast the classifier is rough; masks and sums are not."""
    classifier, given, masks = toy_classifier(), images(1), draw_masks(12, (32, 32)).render(0, 12)
    exact = RISE(classifier, 12)(given, TARGETS[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = RISE(classifier, 12)(given, TARGETS[:1])
        logits = classifier.module(masks.unsqueeze(1) * classifier.normalise(given))
    assert rough.dtype == torch.float32 and logits.dtype == torch.bfloat16
    weights = logits.float().softmax(1)[:, TARGETS[0]]
    torch.testing.assert_close(rough[0], (weights.view(12, 1, 1) * masks).sum(0) / 6, rtol=0, atol=1e-6)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)


def test_any_grad_mode(toy_classifier: Make) -> None:
    draw_masks.cache_clear()
    explainer = RISE(toy_classifier(), 12)
    with torch.inference_mode():  # the masks are drawn here, and used below
        inside = explainer(images() * 1, TARGETS * 1)
    given = images().requires_grad_()
    maps = explainer(given, TARGETS)
    assert torch.equal(maps, inside) and not maps.requires_grad and not maps.is_inference() and given.grad is None


def test_options(toy_classifier: Make) -> None:
    asked = build_explainer(toy_classifier(), "rise", masks=5)
    assert torch.equal(asked(images(), TARGETS), RISE(toy_classifier(), 5)(images(), TARGETS))
    default = build_explainer(toy_classifier(), "rise")
    assert isinstance(default, RISE) and len(default.draw((32, 32)).grids) == 8000


@pytest.mark.parametrize("preset", ["paper", "released", "tame"])
def test_the_preset_says_what_weights_a_mask(toy_classifier: Make, preset: str) -> None:
    """The released program takes logits, which may be negative; a literal sum."""
    classifier = toy_classifier()
    explainer = build_explainer(classifier, "rise", masks=9, **PRESETS.get(preset).method_arguments("rise"))
    maps = explainer(images(), TARGETS)
    masks = draw_masks(9, (32, 32)).render(0, 9)
    for index, target in enumerate(TARGETS.tolist()):
        expected = torch.zeros(32, 32)
        for mask in masks:
            (logits,) = classifier.module(classifier.normalise(images())[[index]] * mask)
            expected += (logits if preset == "released" else logits.softmax(0))[target] * mask / (9 * 0.5)
        torch.testing.assert_close(maps[index], expected, rtol=0, atol=1e-5)


def test_what_it_was_built_by(toy_classifier: Make) -> None:
    """Runs and pictures record the method and its arguments, those of a preset too."""
    explainer = build_explainer(toy_classifier(), "rise", **PRESETS.get("released").method_arguments("rise"))
    assert isinstance(explainer, RISE) and explainer.weighting == "logit"
    assert (explainer.method, dict(explainer.arguments)) == ("rise", {"weighting": "logit"})
    assert PRESETS.get("released").method_arguments("gradcam") == {}


def test_errors(toy_classifier: Make) -> None:
    with pytest.raises(InputError, match="expected at least one mask, got masks=-1"):
        build_explainer(toy_classifier(), "rise", masks=-1)
    with pytest.raises(InputError, match="expected a batch size of 1 or more, got 0"):
        RISE(toy_classifier(), batch_size=0)


# The reference numbers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(shared_dir: Path) -> dict[str, Any]:
    return torch.load(shared_dir / "reference" / "rise.pt", weights_only=True)


@pytest.mark.shared
def test_reference_masks(reference: dict[str, Any]) -> None:
    for case in (reference | {"size": (64, 64)}, *reference["extra_masks"].values()):
        masks = RandomMasks(case["grid"].bool(), case["shifts"], tuple(case["size"]))
        torch.testing.assert_close(masks.render(0, 99), case["masks"].squeeze(1), rtol=0, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(("weighting", "key"), [("confidence", "saliency_softmax"), ("logit", "saliency_logits")])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_reference_maps(
    reference: dict[str, Any], batch_size: int | None, weighting: Literal["confidence", "logit"], key: str
) -> None:
    module = tiny_cnn()
    module.load_state_dict(reference["state_dict"])
    spec = BackboneSpec("tiny", nn.Identity, Preprocessing(64, 64), tuple(map(str, range(10))))
    classifier = FrozenClassifier(spec, module, ["stage3"])
    masks = RandomMasks(reference["grid"].bool(), reference["shifts"], (64, 64))
    explainer = RISE(classifier, batch_size=batch_size, draw=fixed(masks), weighting=weighting)
    given = reference["input"] * classifier.std + classifier.mean  # the stored input is normalised
    for target in range(10):
        maps = explainer.explain(given, torch.tensor([target, target]))  # unchecked: they leave [0, 1] a little
        torch.testing.assert_close(maps, reference[key][:, target], rtol=0, atol=1e-5)
