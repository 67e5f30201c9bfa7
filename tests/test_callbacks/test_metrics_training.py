"""AD, IC and ROAD of a network that is being trained by anyone's module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from logged_trainings import MEAN, SPEC, STD, Training, trainer
from small_runs import Images, request_for
from tame.callbacks.metrics import AverageDropIncrease, MetricCallback, RemoveAndDebias
from tame.classifier import FrozenClassifier
from tame.evaluation import Evaluation, run_evaluations
from tame.explainers import build_explainer
from tame.metrics import ImputedConfidence, MaskedConfidence
from tame.utils.checks import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
]

COUNT = 11
KEEPS, REMOVES = (1.0, 0.5), (0.1, 0.5)


def callbacks(**arguments: Any) -> list[MetricCallback]:
    return [AverageDropIncrease(keeps=KEEPS, **arguments), RemoveAndDebias(removes=REMOVES, **arguments)]


def batches(normalised: bool = True, shuffle: bool = False, size: int = 4) -> DataLoader[Any]:
    """Return (x, y) batches of the images that `expected` evaluates."""
    images = Images(COUNT).images
    values = (images - MEAN) / STD if normalised else images
    return DataLoader([(value, index % 5) for index, value in enumerate(values)], size, shuffle)  # type: ignore[arg-type]


def expected(network: nn.Module, out: Path) -> dict[str, Any]:
    """Evaluate the Grad-CAM maps of a network without Lightning."""
    classifier = FrozenClassifier(SPEC, copy.deepcopy(network).float(), (SPEC.cam_layer,))  # type: ignore[arg-type]
    explainer, data = build_explainer(classifier, "gradcam"), Images(COUNT)
    data.images = (((data.images - MEAN) / STD) * STD + MEAN).clamp(0, 1)  # rounding decides which pixels are kept
    evaluation = Evaluation(
        lambda images, targets, _indices: explainer(images, targets),
        classifier,
        data,
        request_for(
            [MaskedConfidence(("minmax",), KEEPS), ImputedConfidence(REMOVES)], [str(index) for index in range(COUNT)]
        ),
        {"method": "gradcam"},
        out,
    )
    (summary,) = run_evaluations([evaluation])
    return {name: pytest.approx(measure.value, abs=1e-3) for name, measure in summary.metrics.items()}


def measured(logged: Mapping[str, Any], stage: str) -> dict[str, float]:
    return {
        name.removeprefix(f"{stage}/"): float(value)
        for name, value in logged.items()
        if name.startswith((f"{stage}/minmax", f"{stage}/road"))
    }


@pytest.mark.parametrize("frozen", [False, True])
def test_a_fit_that_trains_the_network(tmp_path: Path, frozen: bool) -> None:
    """The values are those of the network as it is then, and the training is the same, bit for bit."""
    states = []
    for used in ([], callbacks(spec=SPEC, network="net")):
        torch.manual_seed(3)
        module = Training()
        module.net.stage1.requires_grad_(not frozen)
        module.net.stage1.eval()
        start = copy.deepcopy(module.net)
        run = trainer(None, tmp_path, callbacks=used, max_epochs=2)
        run.fit(module, batches(shuffle=True), batches())
        states.append(module.state_dict())
        modes = {name: part.training for name, part in module.net.named_modules()}
        assert modes == {name: part.training for name, part in start.named_modules()}
        assert not modes["stage1"] and modes["stage2"]
        trained = [parameter.requires_grad for parameter in module.net.parameters()]
        assert trained == [parameter.requires_grad for parameter in start.parameters()] and True in trained
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(module.net.head.weight, start.head.weight)
    then, before = expected(module.net, tmp_path / "then"), expected(start, tmp_path / "before")
    found = measured(run.callback_metrics, "val")
    assert found == {name: then[name] for name in found} and len(found) == 2 * 3 + 2 * 2 * (1 + len(REMOVES))
    assert found != {name: before[name] for name in found}


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        ({"network": "net"}, batches()),
        ({"network": "net", "normalised": False}, batches(normalised=False)),
        ({"network": "net", "images_of": lambda batch: batch[0] * STD + MEAN}, batches(size=3)),
    ],
)
def test_where_the_network_is_and_how_batches_look(
    tmp_path: Path, arguments: dict[str, Any], loaded: DataLoader[Any], inference_mode: bool
) -> None:
    module = Training()
    for given in (arguments, arguments | {"network": module.net}):
        run = trainer(None, tmp_path, callbacks=callbacks(spec=SPEC, **given), inference_mode=inference_mode)
        (logged,) = run.test(module, loaded, verbose=False)
        found = measured(logged, "test")
        values = expected(module.net, tmp_path / str(len(given)))
        assert found and found == {name: values[name] for name in found}


def test_another_method_is_measured(tmp_path: Path) -> None:
    def ones(images: Tensor, targets: Tensor) -> Tensor:
        return torch.ones(len(images), 4, 4)

    run = trainer(None, tmp_path, callbacks=callbacks(spec=SPEC, network="net", method=ones))
    (logged,) = run.validate(Training(), batches(), verbose=False)
    assert logged["val/minmax/AD_100"] == pytest.approx(0, abs=1e-3)  # nothing is masked
    assert logged["val/minmax/IC_100"] == 0


def test_images_are_those_before_the_step(tmp_path: Path) -> None:
    class Overwriting(Training):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            batch[0].zero_()

    module = Overwriting()
    run = trainer(None, tmp_path, callbacks=callbacks(spec=SPEC, network="net", normalised=False))
    (logged,) = run.validate(module, batches(normalised=False), verbose=False)
    found, values = measured(logged, "val"), expected(module.net, tmp_path / "run")
    assert found and found == {name: values[name] for name in found}


def test_weights_that_a_callback_swaps_in_for_validation_are_measured(tmp_path: Path) -> None:
    class Averaged(Training):
        """Validates other weights than it trains."""

        def __init__(self) -> None:
            super().__init__()
            self.other = copy.deepcopy(self.net.state_dict())

        def on_validation_epoch_start(self) -> None:
            self.swap()

        on_validation_epoch_end = on_validation_epoch_start

        def swap(self) -> None:
            before = copy.deepcopy(self.net.state_dict())
            self.net.load_state_dict(self.other)
            self.other = before

    module = Averaged()
    start = copy.deepcopy(module.net)
    run = trainer(None, tmp_path, callbacks=callbacks(spec=SPEC, network="net"), num_sanity_val_steps=0, max_epochs=1)
    run.fit(module, batches(), batches())
    found, values = measured(run.callback_metrics, "val"), expected(start, tmp_path / "run")
    assert found and found == {name: values[name] for name in found}


@pytest.mark.parametrize("callback", [AverageDropIncrease, RemoveAndDebias])
def test_errors(tmp_path: Path, callback: Any) -> None:
    def validate(module: LightningModule, loaded: DataLoader[Any], **arguments: Any) -> None:
        trainer(None, tmp_path, callbacks=[callback(**arguments)]).validate(module, loaded, verbose=False)

    with pytest.raises(InputError, match="expected the path of a network in Training, got 'model'; its parts: parts"):
        validate(Training(), batches(), spec=SPEC)
    with pytest.raises(InputError, match=r"expected images normalised by mean .* correct the spec, or use normalised"):
        validate(
            Training(),
            batches(),
            spec=replace(SPEC, preprocessing=replace(SPEC.preprocessing, std=(1.0,) * 3)),
            network="net",
        )
    with pytest.raises(InputError, match=r"expected images in \[0, 1\], not normalised"):
        validate(Training(), batches(), spec=SPEC, network="net", normalised=False)
