"""Pictures of explanations in Lightning runs, which they never change."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tame.callbacks.explanations import ExplanationLogger, _Seen, detached_copy, find_network
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.controls import Control, all_ones_maps
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN, seeded

Make = Callable[..., FrozenClassifier]
COUNT = 12
SPEC = TOY_SPECS["cnn"]
MEAN = torch.tensor(SPEC.preprocessing.mean).view(3, 1, 1)
STD = torch.tensor(SPEC.preprocessing.std).view(3, 1, 1)


def images(count: int = COUNT) -> Tensor:
    """Noise with a bright square; the label says in which of five places."""
    values = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 0.4
    for index, (row, column) in enumerate([(2, 2), (2, 20), (12, 12), (20, 2), (20, 20)] * count):
        if index < count:
            values[index, :, row : row + 10, column : column + 10] += 0.6
    return values


class Training(LightningModule):
    """Trains a toy, as a user would who has never heard of this package."""

    def __init__(self, kind: str = "cnn") -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"net": seeded(TOY_SPECS[kind]).build()})

    @property
    def net(self) -> Any:
        return self.parts["net"]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch.values() if isinstance(batch, Mapping) else batch
        return F.cross_entropy(self.net(inputs), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", self.training_step(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Explaining(LightningModule):
    """Explains itself, as our own modules do."""

    def __init__(self, classifier: FrozenClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.explainer = build_explainer(classifier, "gradcam")

    def explain_batch(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.explainer(images, targets)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass


def trainer(callback: ExplanationLogger | None, folder: Path, **changes: Any) -> Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
        "callbacks": [callback] if callback else [],
    }
    return Trainer(**options | changes)


def pairs(batch_size: int = 4, shuffle: bool = False, normalised: bool = True) -> DataLoader[Any]:
    values = (images() - MEAN) / STD if normalised else images()
    data = [(value, index % 5) for index, value in enumerate(values)]
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle)  # type: ignore[arg-type]


def dicts(batch_size: int = 4, label: int = -1) -> DataLoader[Any]:
    return DataLoader([{"image": image, "label": label} for image in images()], batch_size=batch_size)  # type: ignore[arg-type]


def loader(first: Any, label: Any = 0) -> DataLoader[Any]:
    return DataLoader([(first, label)])  # type: ignore[arg-type]


def drawn(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "explanations").iterdir())


class Spy(ExplanationLogger):
    """Keeps what it draws: images, labels, and titles."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shown: list[_Seen] = []

    def _draw(self, pl_module: LightningModule) -> Image.Image:
        self.shown = list(self._seen)
        return super()._draw(pl_module)


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the latest picture."""
    from tame.callbacks import explanations as explanation_logger

    found: list[str] = []
    grid = explanation_logger.grid

    def spy(rows: Any, column_titles: Any, side: int) -> Image.Image:
        found[:] = column_titles
        assert [len(row) for row in rows] == [len(column_titles)] * 2
        return grid(rows, column_titles=column_titles, side=side)

    monkeypatch.setattr(explanation_logger, "grid", spy)
    return found


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        for message in (".*does not have many workers.*", ".*logging interval.*", ".*GPU available but not used.*"):
            warnings.filterwarnings("ignore", message=message)
        yield


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


def state(run: Trainer, module: nn.Module) -> dict[str, Tensor]:
    momenta = run.optimizers[0].state_dict()["state"]
    return module.state_dict() | {f"momentum {key}": value["momentum_buffer"] for key, value in momenta.items()}


def random_states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002


@pytest.mark.parametrize(
    ("network", "spec"), [("net", SPEC), ("", replace(SPEC, layers={}, cam_layer="parts.net.stage3"))]
)
def test_training_is_the_same_to_the_last_bit(tmp_path: Path, network: str, spec: BackboneSpec) -> None:
    """Dropout, batch norm, momentum, shuffling, several validations per epoch: nothing is moved, nothing is drawn."""

    class Whole(Training):
        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)

    results = []
    for callback in (None, ExplanationLogger(spec, network, n=5), None):
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        module = Whole()
        module.net.stage1[0].weight.requires_grad_(False)
        run = trainer(callback, tmp_path, val_check_interval=1)
        run.fit(module, pairs(shuffle=True), pairs())
        results.append((state(run, module), random_states(), [p.requires_grad for p in module.parameters()]))
        assert all(part.training for part in module.modules())
    assert len(drawn(tmp_path)) == 9
    for values, randomness, trained in results[1:]:
        assert randomness == results[0][1]
        assert trained == results[0][2]
        assert values.keys() == results[0][0].keys()
        assert all(torch.equal(value, results[0][0][name]) for name, value in values.items())


class Drawing(Control):
    """Uses up random numbers."""

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return torch.rand(len(images), 7, 7)


def test_a_method_that_draws_random_numbers_does_not_move_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tame.explainers import EXPLAINERS, Method

    drawing = Method("Drawing", "random", "none", lambda classifier: Drawing(classifier, all_ones_maps))
    monkeypatch.setitem(EXPLAINERS._entries, "drawing", drawing)
    results = []
    for callback in (None, ExplanationLogger(SPEC, "net", "drawing")):
        torch.manual_seed(3)
        module = Training()
        run = trainer(callback, tmp_path)
        run.fit(module, pairs(shuffle=True), pairs())
        results.append(state(run, module))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_the_network_is_copied_and_left_alone(tmp_path: Path) -> None:
    """Modes, gradients, memory format and hooks are as before; hooks do not run, kept features do not matter."""

    class Curious(Training):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            with torch.inference_mode(False), torch.enable_grad():
                self.net.kept = self.net(batch[0].clone())  # has a graph

        def on_validation_epoch_start(self) -> None:
            weight.grad = torch.ones_like(weight)  # Lightning itself forgets what was there earlier

    calls: list[str] = []
    module = Curious()
    network = module.net.to(memory_format=torch.channels_last)
    network.stage2.eval()
    handle = network.stage1.register_forward_hook(lambda *_: calls.append("forward"))
    network.head.register_full_backward_hook(lambda *_: calls.append("backward"))
    weight = network.stage1[0].weight
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batches = pairs()
    trainer(ExplanationLogger(SPEC, "net"), tmp_path).validate(module, batches, verbose=False)
    assert drawn(tmp_path)
    assert calls == ["forward"] * len(batches)
    assert handle.id in network.stage1._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert weight.grad.eq(1).all() and network.head.weight.grad is None
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert network.training and not network.stage2.training and network.stage3.training


def test_the_copy_shares_no_tensor() -> None:
    network: Any = ToyCNN()
    network.kept = network.head.weight.square()
    copied: Any = detached_copy(network)
    assert copied.kept.equal(network.kept) and copied.kept.data_ptr() != network.kept.data_ptr()
    own = {value.data_ptr() for value in network.state_dict().values()}
    assert not own & {value.data_ptr() for value in copied.state_dict().values()}


def test_half_precision_and_compiled_networks_are_copied() -> None:
    half = ToyCNN().to(torch.bfloat16)
    assert next(detached_copy(half).parameters()).dtype == torch.float32
    assert next(half.parameters()).dtype == torch.bfloat16
    compiled: Any = torch.compile(half)
    assert find_network(nn.Sequential(compiled), "0") is half


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path: Path, precision: str) -> None:
    run = trainer(ExplanationLogger(SPEC, "net", n=2), tmp_path, precision=precision, max_epochs=1)
    run.fit(Training(), pairs(), pairs())
    assert drawn(tmp_path) == ["val-epoch=0-step=3.png"]


def test_every_few_validations_without_the_sanity_check(tmp_path: Path) -> None:
    run = trainer(ExplanationLogger(SPEC, "net", n=1, every_n_epochs=2), tmp_path, max_epochs=4)
    run.fit(Training(), pairs(), pairs())
    assert drawn(tmp_path) == ["val-epoch=0-step=3.png", "val-epoch=2-step=9.png"]
    run.validate(Training(), pairs(), verbose=False)
    assert drawn(tmp_path)[-1] == "val-epoch=4-step=12.png"


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


class Grey(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :1].mean((2, 3)) @ torch.ones(2, 5)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            ExplanationLogger(),
            r"expected a spec of the classifier, or a module with a FrozenClassifier as .classifier and "
            r"explain_batch\(images, targets\), got no spec and Training",
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
            "expected a spec of 1 or 3 channels to draw, got 4 of toy_cnn",
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


def test_a_spec_without_layers_gets_them_proposed(tmp_path: Path) -> None:
    spec: BackboneSpec = replace(SPEC, layers={}, cam_layer="")
    trainer(ExplanationLogger(spec, Training().net, n=1), tmp_path).validate(Training(), pairs(), verbose=False)
    assert drawn(tmp_path)
