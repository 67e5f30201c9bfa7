"""Which batches can be drawn, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from logged_trainings import (
    COUNT,
    MEAN,
    SPEC,
    STD,
    Explaining,
    Make,
    Spy,
    Training,
    dicts,
    images,
    loader,
    pairs,
    trainer,
)
from tame.callbacks.explanations import ExplanationLogger
from tame.utils.checks import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


@pytest.mark.parametrize(
    ("changes", "batches"),
    [
        ({"normalised": False}, pairs(normalised=False)),
        ({"images_of": lambda batch: batch[0] * STD + MEAN}, pairs()),
        ({}, DataLoader([{"pixel_values": (image - MEAN) / STD, "labels": 2} for image in images()], 5)),  # type: ignore[arg-type]
    ],
)
def test_what_batches_can_be(tmp_path: Path, changes: dict[str, Any], batches: DataLoader[Any]) -> None:
    callback = Spy(SPEC, "net", n=50, **changes)
    trainer(callback, tmp_path).validate(Training(), batches, verbose=False)
    shown = torch.cat([seen.images for seen in callback.shown])
    torch.testing.assert_close(shown.clamp(0, 1), images())  # no more than there are
    assert {label for seen in callback.shown for label in seen.labels} in ({0, 1, 2, 3, 4}, {2})


def test_images_are_those_before_the_step(tmp_path: Path) -> None:
    class Overwriting(Training):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            batch[0].zero_()

    callback = Spy(SPEC, "net", n=4, normalised=False)
    trainer(callback, tmp_path).validate(Overwriting(), pairs(normalised=False), verbose=False)
    torch.testing.assert_close(callback.shown[0].images, images(4))


def test_a_small_overshoot_is_cut_off(tmp_path: Path) -> None:
    callback = Spy(SPEC, "net", n=1)
    batches = loader((torch.full((3, 32, 32), 1.1) - MEAN) / STD)
    trainer(callback, tmp_path).validate(Training(), batches, verbose=False)
    assert callback.shown[0].images.eq(1).all()


def test_soft_labels_are_no_labels(tmp_path: Path, titles: list[str]) -> None:
    class Silent(Training):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

    values = (images() - MEAN) / STD
    for data in ([(value, torch.rand(5)) for value in values], list(values)):
        trainer(ExplanationLogger(SPEC, "net", n=1), tmp_path).validate(Silent(), DataLoader(data), verbose=False)  # type: ignore[arg-type]
        assert titles[0].endswith(" %")


def test_only_the_first_loader_is_drawn(toy_classifier: Make, tmp_path: Path) -> None:
    callback = Spy(n=50)
    module = Explaining(toy_classifier())
    trainer(callback, tmp_path).validate(module, [dicts(label=1), dicts(label=2)], verbose=False)
    assert [label for seen in callback.shown for label in seen.labels] == [1] * COUNT


class Grey(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1].mean((2, 3)) @ torch.ones(2, 5)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            ExplanationLogger(),
            r"expected a spec of the classifier, as in ExplanationLogger\(spec, network='model'\), or "
            r"a module with a FrozenClassifier as .classifier and explain_batch\(images, targets\), "
            r"got no spec and Training",
        ),
        (
            ExplanationLogger(SPEC),
            "expected the path of a network in Training, got 'model'; its parts: parts",
        ),
        (ExplanationLogger(SPEC, "trainer"), "expected the path of a network in Training, got 'trainer'"),
        (ExplanationLogger(SPEC, 3), "expected network, a path or a module, got int"),  # type: ignore[arg-type]
        (ExplanationLogger(SPEC, "net", method="gradcan"), "unknown method 'gradcan'; did you mean 'gradcam'"),
        (ExplanationLogger(SPEC, "net", method="ttame"), "no explainer for toy_cnn comes with this package"),
        (
            ExplanationLogger(replace(SPEC, class_names=("a", "b")), "net"),
            r"expected logits of shape \(B, 2\) from toy_cnn, got \(2, 5\)",
        ),
        (
            ExplanationLogger(replace(SPEC, cam_layer="stage4", layers={}), "net"),
            "'stage4' is not a layer of ToyCNN; similar names: stage",
        ),
        (
            ExplanationLogger(replace(SPEC, layers={"proposed": ("stage1", "stage9")}), "net"),
            r"'stage9' is not a layer of ToyCNN; similar names: stage",
        ),
        (
            ExplanationLogger(replace(SPEC, layers={}, cam_layer=""), Grey()),
            r"expected a network that takes images of shape \(2, 3, 32, 32\) \(.*toy_cnn\), got Grey: .*mat1",
        ),
        (
            ExplanationLogger(
                replace(SPEC, preprocessing=replace(SPEC.preprocessing, mean=(0.0,) * 4, std=(1.0,) * 4)), "net"
            ),
            r"expected a network that takes images of shape \(2, 4, 32, 32\).* check the input size, mean and std",
        ),
    ],
)
def test_errors_before_any_work(tmp_path: Path, callback: ExplanationLogger, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trainer(callback, tmp_path).fit(Training(), pairs(), pairs())
    assert not (tmp_path / "explanations").exists()


def test_a_strategy_that_shards_is_an_error(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(strategy=object.__new__(FSDPStrategy))
    message = "expected a strategy that leaves the network whole, such as ddp, got FSDPStrategy"
    with pytest.raises(InputError, match=message):
        ExplanationLogger(SPEC, "net").setup(run, Training(), "fit")


def test_errors_of_numbers() -> None:
    with pytest.raises(InputError, match="expected n of 1 or more, got 0"):
        ExplanationLogger(n=0)
    with pytest.raises(InputError, match="expected every_n_epochs of 1 or more, got -1"):
        ExplanationLogger(every_n_epochs=-1)


@pytest.mark.parametrize(
    ("changes", "batches", "message"),
    [
        ({}, DataLoader([{"photo": torch.rand(3, 32, 32)}]), r"expected batches \(images, labels\) or dicts .* dict"),  # type: ignore[arg-type]
        ({}, loader(torch.full((3, 32, 32), 9.0)), r"expected images normalised by mean .* \[2.2, 3.3\] after undoing"),
        ({"normalised": False}, loader(torch.full((3, 32, 32), 9.0)), r"expected images in \[0, 1\], not normalised"),
        ({"normalised": False}, loader(torch.ones(3, 4, 4, dtype=torch.uint8)), "divide by 255 first"),
        ({}, loader(torch.rand(1, 32, 32)), r"expected images of shape \(B, 3, H, W\), got \(1, 1, 32, 32\)"),
        ({"images_of": lambda batch: batch[0] * 9}, loader(torch.ones(3, 4, 4)), r"values in \[9, 9\]"),
        ({}, loader(torch.zeros(3, 32, 32), 5), "expected labels below 5, the classes of toy_cnn, got 5"),
    ],
)
def test_batches_that_cannot_be_drawn_fail_in_the_sanity_check(
    tmp_path: Path, changes: dict[str, Any], batches: DataLoader[Any], message: str
) -> None:
    module = Training()
    run = trainer(ExplanationLogger(SPEC, "net", **changes), tmp_path)
    with pytest.raises(InputError, match=message):
        run.fit(module, pairs(), batches)
    assert run.global_step == 0


def test_a_failing_explanation_ends_the_run(tmp_path: Path) -> None:
    class Diverging(Training):
        def on_validation_epoch_start(self) -> None:
            if not self.trainer.sanity_checking:
                torch.nn.init.constant_(self.net.head.bias, float("nan"))

    with pytest.raises(InputError, match="expected finite weights to explain, got NaN or infinity in head.bias"):
        trainer(ExplanationLogger(SPEC, "net"), tmp_path).fit(Diverging(), pairs(), pairs())
