"""Files as the authors' programs write them, of toy classifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.classifier import load_classifier
from tame.classifier import FrozenClassifier
from tame.explainers import build_explainer
from tame.explainers.base import CheckedExplainer

State = dict[str, Tensor]


def mechanism_of(classifier: FrozenClassifier, kind: str = "ttame") -> nn.Module:
    """Return a mechanism as the authors' programs build it, with statistics that are not those of the start."""
    attention = build_attention(kind, classifier.channels, classifier.spec.num_classes, "first").eval()
    for part in attention.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return attention


def lightning(
    file: Path,
    model: ExplainedClassifier,
    version: str = "TAME",
    rename: Callable[[str], str] = str,
    body: bool = True,
    **changes: Any,
) -> Path:
    """Write T-TAME's .ckpt; ``changes`` are hyper-parameters, None leaves one out."""
    classifier = model.classifier
    adapter = "1." if classifier.spec.tokens else ""
    state = {f"generic.attn_mech.{adapter}{key}": value for key, value in model.attention.state_dict().items()}
    if body:
        for prefix in "generic.body.", "generic.arrangement.body.":
            state |= {prefix + key: value for key, value in classifier.module.state_dict().items()}
    hyper = {
        "model_name": classifier.spec.name,
        "layers": list(classifier.layers),
        "attention_version": version,
        "epochs": 8,
        "num_classes": classifier.spec.num_classes,
    } | changes
    content = {
        "epoch": 7,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": {rename(key): value for key, value in state.items()},
        "hyper_parameters": {key: value for key, value in hyper.items() if value is not None},
    }
    torch.save(content, file)
    return file


def snapshot(file: Path, state: State, prefix: str = "", **changes: Any) -> Path:
    """Write a snapshot of TAME or L-CAM: ``prefix`` stands before the names of the mechanism's tensors."""
    named = {prefix + key: value for key, value in state.items()}
    torch.save({"state_dict": named, "optimizer": {}, "epoch": 3, "global_counter": 100, **changes}, file)
    return file


class Used(NamedTuple):
    """A classifier loaded for a checkpoint, and the checkpoint's explainer."""

    classifier: FrozenClassifier
    explainer: CheckedExplainer


def use(checkpoint: Path, backbone: str = "toy_cnn", method: str = "ttame", **arguments: Any) -> Used:
    """Load a classifier for a checkpoint, and the checkpoint; ``arguments`` are those of `tame.load_classifier`."""
    classifier = load_classifier(backbone, checkpoint=checkpoint, device="cpu", **arguments)
    return Used(classifier, build_explainer(classifier, method, checkpoint=checkpoint))
