"""Pictures of explanations in Lightning runs: what is drawn, when, and where it is logged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from torch import nn

from logged_trainings import (
    MEAN,
    SPEC,
    STD,
    Explaining,
    Make,
    Spy,
    Training,
    dicts,
    drawn,
    images,
    loader,
    pairs,
    trainer,
)
from tame.callbacks.explanations import ExplanationLogger
from tame.classifier import BackboneSpec
from toys import TOY_SPECS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


@pytest.mark.parametrize("inference_mode", [True, False])
def test_a_module_that_explains_itself(
    toy_classifier: Make, tmp_path: Path, titles: list[str], inference_mode: bool
) -> None:
    classifier = toy_classifier()
    run = trainer(ExplanationLogger(n=3), tmp_path, inference_mode=inference_mode)
    run.validate(Explaining(classifier), dicts(), verbose=False)
    run.test(Explaining(classifier), dicts(label=4), verbose=False)
    assert drawn(tmp_path) == ["test-epoch=0-step=0.png", "val-epoch=0-step=0.png"]
    with torch.no_grad():
        confidences, predicted = classifier.logits(images(3)).softmax(1).max(1)
    names = [f"{SPEC.class_names[index]} ({index})" for index in predicted.tolist()]
    expected = [f"{name} {100 * value:.1f} %" for name, value in zip(names, confidences.tolist(), strict=True)]
    assert titles == [f"{title}, true: tree (4)" for title in expected]


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_a_training_of_the_users_own(tmp_path: Path, titles: list[str], kind: str) -> None:
    callback = Spy(TOY_SPECS[kind], network="parts.net", n=5)
    module = Training(kind)
    trainer(callback, tmp_path, max_epochs=2).fit(module, pairs(shuffle=True), pairs())
    assert drawn(tmp_path) == ["val-epoch=0-step=3.png", "val-epoch=1-step=6.png"]
    assert [len(seen.images) for seen in callback.shown] == [4, 1]  # over two batches
    torch.testing.assert_close(torch.cat([seen.images for seen in callback.shown]), images(5))
    with torch.no_grad():  # the copy answers as the network does
        confidences, predicted = module.eval().net((images(5) - MEAN) / STD).softmax(1).max(1)
    for index, title in enumerate(titles):
        name, percent = SPEC.class_names[predicted[index]], 100 * confidences[index].item()
        match = re.fullmatch(rf"{name} \({predicted[index]}\) ([\d.]+) %, true: {SPEC.class_names[index]} .*", title)
        assert match and float(match[1]) == pytest.approx(percent, abs=0.1)


def test_the_picture_is_images_above_overlays(tmp_path: Path) -> None:
    trainer(ExplanationLogger(SPEC, "net", n=3), tmp_path).validate(Training(), pairs(), verbose=False)
    with Image.open(tmp_path / "explanations" / "val-epoch=0-step=0.png") as picture:
        values = np.asarray(picture.convert("RGB")).astype(int)
    half = len(values) // 2
    colour = np.abs(values - values.mean(2, keepdims=True)).mean((1, 2))  # the images are grey noise, nearly
    assert values.shape[1] > 3 * 200 > values.shape[0]
    assert colour[half:].mean() > 2 * colour[:half].mean()


def test_every_few_validations_without_the_sanity_check(tmp_path: Path) -> None:
    run = trainer(ExplanationLogger(SPEC, "net", n=1, every_n_epochs=2), tmp_path, max_epochs=4)
    run.fit(Training(), pairs(), pairs())
    assert drawn(tmp_path) == ["val-epoch=0-step=3.png", "val-epoch=2-step=9.png"]
    run.validate(Training(), pairs(), verbose=False)
    assert drawn(tmp_path)[-1] == "val-epoch=4-step=12.png"


def test_tensorboard_has_the_picture(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "logs")
    run = trainer(ExplanationLogger(SPEC, "net", n=2), tmp_path, logger=logger, max_epochs=2)
    run.fit(Training(), pairs(), pairs())
    assert drawn(Path(logger.log_dir)) == ["val-epoch=0-step=3.png", "val-epoch=1-step=6.png"]
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    found = events.Images("val/explanations")
    assert [event.step for event in found] == [3, 6]
    with Image.open(Path(logger.log_dir) / "explanations" / "val-epoch=1-step=6.png") as picture:
        assert (found[1].width, found[1].height) == picture.size


def test_loggers_of_other_kinds(tmp_path: Path) -> None:
    logged: list[tuple[Any, ...]] = []

    class Wandb(WandbLogger):
        save_dir, name, version, experiment = str(tmp_path), "name", "version", None  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

        def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
            logged.append((key, images[0].mode, step))

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            pass

        def finalize(self, status: str = "") -> None:
            pass

    class Client:
        def log_image(self, run_id: str, image: Image.Image, artifact_file: str) -> None:
            logged.append((run_id, image.mode, artifact_file))

    class MLFlow(MLFlowLogger):
        save_dir, name, version, run_id, experiment = str(tmp_path), "name", "version", "run", Client()  # type: ignore[assignment]

        def __init__(self) -> None:
            pass

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            pass

        def finalize(self, status: str = "") -> None:
            pass

    loggers = [CSVLogger(tmp_path, "csv"), Wandb(), MLFlow()]
    run = trainer(ExplanationLogger(SPEC, "net", n=1), tmp_path, logger=loggers)
    run.test(Training(), pairs(), verbose=False)
    assert logged == [
        ("test/explanations", "RGB", 0),
        ("run", "RGB", "explanations/test-epoch=0-step=0.png"),
    ]
    assert drawn(tmp_path / "csv" / "version_0") == ["test-epoch=0-step=0.png"]


def test_four_channels_are_drawn_as_the_first_three(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )  # fmt: skip
    pixels = replace(SPEC.preprocessing, mean=(0.5,) * 4, std=(0.25,) * 4)
    spec = replace(SPEC, preprocessing=pixels, layers={}, cam_layer="1")
    levels = torch.tensor([0, 51, 102, 153]) / 255
    batches = loader(((levels - 0.5) / 0.25).view(4, 1, 1).expand(4, 32, 32))
    module = Training()
    module.parts["net"] = network
    trainer(ExplanationLogger(spec, "net", "centre", n=1), tmp_path).validate(module, batches, verbose=False)
    with Image.open(tmp_path / "explanations" / "val-epoch=0-step=0.png") as picture:
        assert (0, 51, 102) in {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}


def test_a_spec_without_layers_gets_them_proposed(tmp_path: Path) -> None:
    spec: BackboneSpec = replace(SPEC, layers={}, cam_layer="")
    trainer(ExplanationLogger(spec, Training().net, n=1), tmp_path).validate(Training(), pairs(), verbose=False)
    assert drawn(tmp_path)
