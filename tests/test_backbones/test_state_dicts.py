"""Weights files as training programs write them, and what of them belongs to a network."""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tame.backbones import load_backbone
from tame.utils.checks import InputError
from toys import TOY_SPECS, ToyCNN

CNN = TOY_SPECS["cnn"]
State = dict[str, Tensor]


def trained(seed: int = 0) -> State:
    torch.manual_seed(seed)
    return ToyCNN().state_dict()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def compiled_part(state: State) -> State:
    return {key.replace("stage2.", "stage2._orig_mod."): value for key, value in state.items()}


CONTAINERS: dict[str, Callable[[State], object]] = {
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": torch.tensor(0.1)},
    "net": lambda state: {"net": state},
    "nested": lambda state: {"checkpoint": {"network": {"weights": state}}},
    "lightning": lambda state: {
        "state_dict": prefixed("model.", state) | {"criterion.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"lr": 0.1, "out": Path("runs")},
    },
    "lightning compiled": lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled parallel": lambda state: prefixed("_orig_mod.module.", state),
    "compiled part": compiled_part,
    "backbone": lambda state: prefixed("backbone.", state),
    "metrics beside": lambda state: state | {"train_acc.tp": torch.ones(1), "val_loss.weight": torch.ones(5)},
    "profiled": lambda state: state | {"total_ops": torch.ones(1), "stage1.0.total_params": torch.ones(1)},
    "other head": lambda state: prefixed("encoder.", state) | {"projector.0.weight": torch.ones(2, 5)},
    "arguments": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, data=Path("x"), on=datetime.now())},
    "numbers of numpy": lambda state: {"state_dict": state, "metric": np.float64(0.7), "seen": defaultdict(int, a=1)},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_weights_in_a_file_are_found(tmp_path: Path, kind: str) -> None:
    state = trained()
    torch.save(CONTAINERS[kind](state), tmp_path / "file.ckpt")
    own = load_backbone(CNN, tmp_path / "file.ckpt").module.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], value) for key, value in state.items())


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(CONTAINERS["lightning"](trained()), tmp_path / "file.ckpt")
    with caplog.at_level(logging.INFO, "tame"):
        load_backbone(CNN, tmp_path / "file.ckpt")
    assert "The weights state_dict.model in " in caplog.text
    assert "since the network has no such tensors: criterion.weight." in caplog.text


@pytest.mark.parametrize(
    ("average", "content"),
    [
        ("state_dict_ema", lambda a, b: {"state_dict": a, "state_dict_ema": b}),
        ("model_ema.module", lambda a, b: {"model": a, "model_ema": prefixed("module.", b)}),
        ("ema_state_dict", lambda a, b: {"ema_state_dict": b, "net": a}),
        ("state_dict.ema_model.module", lambda a, b: prefixed("model.", a) | prefixed("ema_model.module.", b)),
    ],
)
def test_of_weights_and_their_average_the_average_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, average: str, content: Callable[[State, State], dict[str, Any]]
) -> None:
    last, mean = trained(1), trained(2)
    found = content(last, mean)
    torch.save({"state_dict": found} if average.startswith("state_dict.") else found, tmp_path / "file.pth")
    classifier = load_backbone(CNN, tmp_path / "file.pth")
    assert torch.equal(classifier.module.state_dict()["head.weight"], mean["head.weight"])
    assert f"The moving average {average} of the weights in " in caplog.text


def test_an_averaged_model_of_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ToyCNN()
    torch.save(AveragedModel(network).state_dict(), tmp_path / "file.pth")
    own = load_backbone(CNN, tmp_path / "file.pth").module.state_dict()
    assert torch.equal(own["head.weight"], network.head.weight)


def test_copies_of_the_same_values_are_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = trained()
    torch.save({"best": state, "last": {key: value.clone() for key, value in state.items()}}, tmp_path / "file.pth")
    load_backbone(CNN, tmp_path / "file.pth")
    assert "The weights best in " in caplog.text and "; last has the same values." in caplog.text


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (lambda a, b: {"student": a, "teacher": b}, "student, teacher"),
        (lambda a, b: prefixed("student.", a) | prefixed("teacher.", b), "student, teacher"),
        (lambda a, b: {"ema": {"0.9": a, "0.99": b}}, "ema.0.9, ema.0.99"),
        (lambda a, b: a | prefixed("copy.", b), "the file itself, copy"),
    ],
)
def test_several_fits_are_refused_with_their_names(
    tmp_path: Path, content: Callable[[State, State], object], names: str
) -> None:
    torch.save(content(trained(1), trained(2)), tmp_path / "file.pth")
    with pytest.raises(InputError, match=f"got several that fit ToyCNN: {names}; save the one you mean with"):
        load_backbone(CNN, tmp_path / "file.pth")


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("extra", ["stage3.3.weight", "stage4.0.weight", "0.weight", "temperature"])
def test_weights_of_a_larger_network_are_refused(tmp_path: Path, prefix: str, extra: str) -> None:
    torch.save(prefixed(prefix, trained() | {extra: torch.ones(1)}), tmp_path / "file.pth")
    with pytest.raises(InputError, match=f"do not match ToyCNN: unexpected {extra}$"):
        load_backbone(CNN, tmp_path / "file.pth")


def test_what_does_not_fit_is_compared_without_its_prefix(tmp_path: Path) -> None:
    state = trained()
    state["head.weight"] = torch.zeros(7, 16)
    torch.save({"state_dict": prefixed("model.", state) | {"loss.weight": torch.ones(2)}}, tmp_path / "file.ckpt")
    with pytest.raises(InputError, match=r"do not match ToyCNN: head.weight is \(7, 16\), expected \(5, 16\)$"):
        load_backbone(CNN, tmp_path / "file.ckpt")


class Scripted(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


@pytest.mark.parametrize("kind", ["whole", "whole beside", "TorchScript", "traced"])
def test_a_whole_model_is_refused_in_a_line_that_says_how_to_save_its_weights(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "model.pt"
    if kind == "TorchScript":
        torch.jit.script(Scripted()).save(file)  # type: ignore[no-untyped-call]
    elif kind == "traced":
        torch.jit.trace(ToyCNN().eval(), torch.rand(1, 3, 32, 32)).save(file)  # type: ignore[no-untyped-call]
    else:
        torch.save(ToyCNN() if kind == "whole" else {"model": ToyCNN(), "state_dict": trained()}, file)
    with pytest.raises(InputError, match="contains no weights that can be loaded safely") as error:
        load_backbone(CNN, file)
    text = str(error.value)
    assert "torch.save(model.state_dict(), 'weights.pth')" in text
    assert "\n" not in text and "weights_only" not in text and len(text) < 350
