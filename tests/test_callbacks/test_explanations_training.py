"""Drawing explanations never changes the training."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from logged_trainings import (
    SPEC,
    Training,
    drawn,
    pairs,
    trainer,
)
from tame.callbacks.explanations import ExplanationLogger
from tame.callbacks.network import detached_copy, find_network
from tame.classifier import BackboneSpec
from tame.explainers.controls import Control, all_ones_maps
from toys import ToyCNN

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


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


def test_a_map_without_evidence_is_said_in_its_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, titles: list[str]
) -> None:
    from tame.explainers import EXPLAINERS, Method

    nothing = Method("Nothing", "zeros", "none", lambda classifier: Control(classifier, lambda x: 0 * all_ones_maps(x)))
    monkeypatch.setitem(EXPLAINERS._entries, "nothing", nothing)
    trainer(ExplanationLogger(SPEC, "net", "nothing"), tmp_path).validate(Training(), pairs(), verbose=False)
    assert titles and all(title.endswith(", no positive evidence") for title in titles)
