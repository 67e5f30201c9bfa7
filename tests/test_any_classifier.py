"""From training to evaluation with classifiers unlike ImageNet's: grey, not square, multi-label, binary, large."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tame.attention import build_attention
from tame.attention.loss import AttentionLoss
from tame.attention.model import ExplainedClassifier
from tame.backbones import BACKBONES, load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import describe, load_attention, read_metadata
from tame.classifier import BackboneSpec, FrozenClassifier, Preprocessing
from tame.data import Crop, load_image
from tame.evaluation.records import open_run
from tame.explainers import EXPLAINERS, build_explainer
from tame.inference import Classes, NamedExplainer, explain, explain_batch, prepare_image, write_explanations
from tame.perturbations import MaskedInputs, perturbed_scores, plain_scores
from tame.reporting.compare import compare as compare_methods
from tame.training.train import train
from toys import TOY_SPECS, ToyCNN, seeded

HEIGHT, WIDTH = 24, 40


class GreyCNN(nn.Module):
    """Three classes of images of 1 x 24 x 40; its size is part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(8 * HEIGHT // 4 * WIDTH // 4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.late(self.early(inputs)).flatten(1))


GREY = seeded(
    BackboneSpec(
        name="toy_grey",
        build=GreyCNN,
        preprocessing=Preprocessing((HEIGHT + 4, WIDTH + 8), (HEIGHT, WIDTH), mean=(0.4,), std=(0.2,)),
        class_names=("circle", "square", "star"),
        layers={name: ("early", "late") for name in ("paper", "released", "proposed")},
        cam_layer="late",
    )
)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[BackboneSpec], str]:
    """Register a spec while the test runs, far from this machine's data."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)

    def add(spec: BackboneSpec) -> str:
        monkeypatch.setitem(BACKBONES._entries, spec.name, spec)
        return spec.name

    return add


Register = Callable[[BackboneSpec], str]


def train_once(backbone: str, data: Path, out: Path, **choices: Any) -> Path:
    """Train one step and validate once."""
    small: dict[str, Any] = {"limit_images": 4, "batch_size": 4, "epochs": 1, "init_images": 4, "lr": 0.05}
    return train(load_classifier(backbone, device="cpu"), data=data, out=out, **small | choices).folder


def compare(backbone: str, data: Path, out: Path, methods: str, metrics: str) -> dict[str, Any]:
    """Evaluate methods on six images; return their runs by name."""
    names = [name.partition("@")[0] for name in methods.split(",")]
    compare_methods(
        methods.split(","),
        backbone,
        data=data,
        out=out,
        limit_images=6,
        batch_size=4,
        metrics=metrics.split(","),
        report=out,
        report_images=1,
        arguments={"rise": {"masks": 10}} if "rise" in names else None,
    )
    return {name: open_run(next(out.glob(f"{name}*/"))) for name in names}


# --- grey and not square


@pytest.mark.parametrize("preset", ["tame", "released"])
def test_a_grey_classifier_that_is_not_square_from_training_to_a_report(
    register: Register, photographs: Path, tmp_path: Path, preset: str
) -> None:
    backbone = register(GREY)
    out = train_once(backbone, photographs, tmp_path / "trained", preset=preset)
    classifier = load_backbone(backbone, layers=read_metadata(out)["layers"])
    maps = ExplainedClassifier(classifier, load_attention(out, classifier)).maps(
        torch.rand(2, 1, HEIGHT, WIDTH), torch.tensor([0, 2])
    )
    assert maps.shape == (2, HEIGHT // 2, WIDTH // 2)
    runs = compare(backbone, photographs, tmp_path / "compared", f"ttame@{out},gradcam,rise,centre", "ad-ic,road")
    assert len(runs) == 4
    for run in runs.values():
        assert run.summary.images == 6 and run.summary.invalid == 0
        assert {"minmax/AD_100", "rank/IC_15"} <= run.summary.metrics.keys()
        assert all(math.isfinite(estimate.value) for estimate in run.summary.metrics.values())
        assert any(name.startswith("road/morf") for name in run.summary.metrics)
        assert "score" not in run.summary.settings
    assert (tmp_path / "compared" / "report.html").stat().st_size > 1000


def test_a_grey_explanation_of_a_file_lies_where_the_classifier_looked(tmp_path: Path) -> None:
    classifier = FrozenClassifier(GREY, GREY.build(), ("early", "late"))
    values = np.random.default_rng(0).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    report = write_explanations(
        [tmp_path / "photo.png"],
        [NamedExplainer(classifier, lambda images, _targets: images[:, 0], "brightness", "tame")],
        out=tmp_path / "out",
        classes=Classes(top=2),
        progress=False,
    )
    assert [entry["image_size"] for entry in report.entries] == [[70, 90], [70, 90]]
    across, down = 70 / (WIDTH + 8), 90 / (HEIGHT + 4)
    box = [4 * across, 2 * down, (WIDTH + 4) * across, (HEIGHT + 2) * down]
    assert report.entries[0]["crop"] == pytest.approx(box)
    grey = Crop.of(GREY.preprocessing)(load_image(tmp_path / "photo.png", channels=1))
    assert grey.shape == (1, HEIGHT, WIDTH)
    saved = np.load(tmp_path / "out" / report.entries[0]["map"])
    assert saved == pytest.approx(((grey - grey.min()) / (grey.max() - grey.min()))[0].numpy(), abs=1e-6)
    logits = classifier.logits(grey[None])
    assert report.entries[0]["confidence"] == pytest.approx(logits.softmax(1).max().item())

    explanation = explain(tmp_path / "photo.png", classifier, method="gradcam")
    overlay = np.asarray(explanation.overlay())
    assert overlay.shape == (90, 70, 3)
    coloured = overlay.max(2) != overlay.min(2)  # outside of the box it is grey
    rows, columns = np.nonzero(coloured)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert edges == pytest.approx(box, abs=1)


ANY = [
    name
    for name in EXPLAINERS.names()
    if not (EXPLAINERS.get(name).transformers_only or EXPLAINERS.get(name).learned or name == "random")
]


@pytest.mark.parametrize("method", ANY)
def test_every_explainer_serves_it(method: str) -> None:
    classifier = FrozenClassifier(GREY, GREY.build(), ("early", "late"))
    explainer = build_explainer(classifier, method, **({"masks": 8} if method == "rise" else {}))
    maps = explainer(torch.rand(2, 1, HEIGHT, WIDTH), torch.tensor([0, 2]))
    assert maps.ndim == 3 and maps.isfinite().all()
    assert maps.shape[1] * WIDTH == maps.shape[2] * HEIGHT  # the aspect of the input


# --- several labels per image, and one logit


MULTI = replace(seeded(TOY_SPECS["cnn"]), name="toy_multi", score="sigmoid")


@pytest.fixture
def multi() -> FrozenClassifier:
    return FrozenClassifier(MULTI, MULTI.build(), ("stage1", "stage2", "stage3"), weights="random")


def test_the_confidences_of_several_labels_are_their_sigmoids(multi: FrozenClassifier, toy_images: Tensor) -> None:
    plain = plain_scores(multi, toy_images)
    assert torch.equal(plain.targets, plain.logits.argmax(1))
    expected = [1 / (1 + math.exp(-max(row))) for row in plain.logits.tolist()]
    assert plain.confidence.tolist() == pytest.approx(expected)
    maps = torch.rand(4, 8, 8)
    masked = perturbed_scores(multi, toy_images, maps, plain.targets, torch.arange(4), [MaskedInputs(["minmax"], [1])])
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    logits = multi.masked_logits(toy_images, (maps - low) / (high - low))
    torch.testing.assert_close(masked.confidence[0], logits.sigmoid()[range(4), plain.targets], atol=1e-5, rtol=0)


def test_several_labels_are_explained_each_with_its_own_confidence(multi: FrozenClassifier) -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    prepared = prepare_image(photo, Crop.of(MULTI.preprocessing), None)
    methods = [NamedExplainer(multi, build_explainer(multi, "gradcam"), "gradcam", "tame")]
    ((found,),) = explain_batch([[prepared]], methods, Classes(top=5))
    logits = multi.logits(prepared.inputs[None])[0]
    assert [each.confidence for each in found] == pytest.approx(logits.sigmoid().sort(descending=True).values.tolist())
    assert sum(each.confidence for each in found) != pytest.approx(1, abs=0.1)


def test_rise_weighs_masks_by_the_sigmoid(multi: FrozenClassifier, toy_images: Tensor) -> None:
    rise, targets = build_explainer(multi, "rise", masks=6), torch.tensor([1, 4, 0, 2])
    masks: Tensor = rise.draw((32, 32)).render(0, 6)  # type: ignore[attr-defined] # RISE has them
    expected = torch.zeros(4, 32, 32)
    for mask in masks:
        scores = multi.module(multi.normalise(toy_images) * mask).sigmoid()[range(4), targets]
        expected += scores.view(-1, 1, 1) * mask / (6 * 0.5)
    torch.testing.assert_close(rise(toy_images, targets), expected, atol=1e-5, rtol=1e-5)


def test_several_labels_are_trained_and_evaluated(register: Register, photographs: Path, tmp_path: Path) -> None:
    backbone = register(MULTI)
    out = train_once(backbone, photographs, tmp_path / "trained")
    metadata = read_metadata(out)
    assert metadata["score"] == "sigmoid"
    classifier = load_backbone(backbone, layers=metadata["layers"])
    (run,) = compare(backbone, photographs, tmp_path / "compared", f"ttame@{out}", "ad-ic").values()
    assert run.summary.settings["score"] == "sigmoid"
    image = Crop.of(MULTI.preprocessing)(load_image(photographs / run.rows.files[0]))
    logits = classifier.logits(image[None])[0]
    assert run.rows.columns["p"][0] == pytest.approx(logits.max().sigmoid().item(), abs=1e-6)
    page = (tmp_path / "compared" / "report.html").read_text()
    shown = [float(value) for value in re.findall(r'"confidence": ?([\d.e-]+)', page)]
    assert shown == pytest.approx(logits.sigmoid().sort(descending=True).values[:3].tolist(), abs=1e-6)


def test_the_score_is_recorded_only_where_it_is_no_softmax(multi: FrozenClassifier) -> None:
    usual = FrozenClassifier(replace(MULTI, score="softmax"), MULTI.build(), multi.layers, weights="random")
    assert describe(multi) == describe(usual) | {"score": "sigmoid"}


@pytest.mark.parametrize(
    ("names", "score"), [(("healthy", "ill"), "softmax"), (("ill",), "sigmoid")], ids=["two names", "one name"]
)
def test_one_logit_is_trained_explained_and_evaluated(
    register: Register, photographs: Path, tmp_path: Path, names: tuple[str, ...], score: Any
) -> None:
    spec = seeded(replace(TOY_SPECS["cnn"], name="toy_binary", build=lambda: ToyCNN(1), class_names=names, score=score))
    backbone = register(spec)
    out = train_once(backbone, photographs, tmp_path / "trained")
    assert read_metadata(out)["metrics"]["val/cross_entropy"] > 0  # that of one class's softmax is 0
    classifier = load_backbone(backbone, layers=read_metadata(out)["layers"])
    (run,) = compare(backbone, photographs, tmp_path / "compared", f"ttame@{out}", "ad-ic").values()
    image = Crop.of(spec.preprocessing)(load_image(photographs / run.rows.files[0]))
    logit = spec.build().eval()(classifier.normalise(image[None])).item()
    ill = 1 / (1 + math.exp(-logit))
    assert run.rows.columns["p"][0] == pytest.approx(max(ill, 1 - ill) if len(names) == 2 else ill, abs=1e-5)
    explanation = explain(photographs / run.rows.files[0], classifier, "ill", method="gradcam")
    assert explanation.confidence == pytest.approx(ill, abs=1e-5)
    assert explanation.map.shape == (4, 4)


# --- two classes, and ten thousand


@pytest.mark.parametrize("count", [2, 10_000])
def test_any_number_of_classes_is_trained_and_explained(count: int, toy_images: Tensor) -> None:
    spec = replace(TOY_SPECS["cnn"], name="toy_heads", class_names=tuple(f"class {index}" for index in range(count)))
    classifier = FrozenClassifier(spec, ToyCNN(count), ("stage2", "stage3"))
    model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, count))
    optimizer = torch.optim.SGD(model.attention.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in model.attention.parameters()]
    for other_classes in "batch", "random":
        result = model.training_pass(toy_images, other_classes)  # type: ignore[arg-type] # one of the two
        assert result.masked_logits.shape == (4, count)
        AttentionLoss()(result)["total"].backward()
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.attention.parameters(), strict=True))
    targets = torch.tensor([0, count - 1, 1, count - 2])
    for maps in (
        model.maps(toy_images, targets),
        build_explainer(classifier, "gradcam")(toy_images, targets),
    ):
        assert maps.ndim == 3 and len(maps) == 4 and maps.isfinite().all()
    assert plain_scores(classifier, toy_images).confidence.isfinite().all()
