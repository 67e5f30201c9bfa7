"""Build the explainers of an evaluation on one classifier; what cannot be used is refused before any work."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tame.checkpoints.classifier import as_classifier, load_classifier
from tame.classifier import FrozenClassifier
from tame.evaluation.processes import Processes
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import MethodName, build_explainer, resolve_arguments
from tame.explainers.user_code import ExplainFunction, UserExplainer
from tame.presets import PRESETS
from tame.utils.checks import InputError
from tame.utils.code import code_hash
from tame.utils.devices import resolve_device

AnyExplainer = str | ExplainFunction | CheckedExplainer
AnyClassifier = FrozenClassifier | nn.Module | str | Path


@dataclass(frozen=True)
class MethodChoices:
    """How explanation methods are built, see the arguments of `tame.evaluate`."""

    checkpoint: str | Path | None = None
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    preset: str = "tame"
    seed: int = 0


class Prepared(NamedTuple):
    """Explainers that are ready to be evaluated.

    Attributes:
        classifier: The classifier, at the layer set of the preset.
        explainers: By key, each with a classifier of its own that shares the parameters.
        processes: To be started.
    """

    classifier: FrozenClassifier
    explainers: dict[str, CheckedExplainer]
    processes: Processes


def prepare(
    asked: Mapping[str, AnyExplainer],
    classifier: AnyClassifier | None,
    choices: MethodChoices,
    devices: int = 1,
    num_nodes: int = 1,
) -> Prepared:
    """Build explainers on one classifier, on the device of this process.

    Args:
        asked: Methods, functions or explainers by key.
        classifier: The classifier; None: that of the explainers, or the default one.
        choices: What methods are built with.
        devices: Number of devices, or of processes on the CPU.
        num_nodes: Number of nodes.

    Raises:
        InputError: For anything that cannot be used; unknown methods before anything is loaded.
    """
    layers = PRESETS.get(choices.preset).layers
    names = [MethodName.of(one) for one in asked.values() if isinstance(one, str)]
    learned = [name for name in names if name.learned]  # refuses unknown methods
    _check_arguments(choices.arguments, [name.name for name in names])
    own = [one for one in asked.values() if isinstance(one, CheckedExplainer)]
    if classifier is None and own:
        classifier = own[0].classifier
    if classifier is None or isinstance(classifier, str | Path):
        processes = Processes(resolve_device("auto"), devices, num_nodes)
        checkpoint = next((name.checkpoint for name in learned if name.checkpoint), choices.checkpoint)
        frozen = load_classifier(
            classifier,
            checkpoint=checkpoint if learned else None,
            device="cpu",
            seed=choices.seed,
        )
        frozen.to(processes.device)
    else:
        frozen = as_classifier(classifier)
        processes = Processes(frozen.mean.device.type, devices, num_nodes)
        if devices * num_nodes > 1:
            _move([frozen, *(part for one in own for part in vars(one).values())], processes.device)
    _check_classifiers(frozen, own)
    at_layers = frozen.with_layer_set(layers)
    explainers = {
        key: one if isinstance(one, CheckedExplainer) else _build(frozen, at_layers, one, choices)
        for key, one in asked.items()
    }
    return Prepared(at_layers, explainers, processes)


def code_of(explainer: CheckedExplainer) -> str | None:
    """Return a hash of the user's own code, None for methods by name.

    It is of a function, with the file of its module if it is named package.module:function, or of an explainer that was
    not built by name; and of what these hold.
    """
    if not isinstance(explainer, UserExplainer):
        return None if explainer.method else code_hash(explainer)
    found = code_hash(explainer.function)
    module = sys.modules.get((explainer.method or "").partition(":")[0])
    if file := getattr(module, "__file__", None):
        found = hashlib.sha256(found.encode() + Path(file).read_bytes()).hexdigest()
    return found


def method_title(explainer: CheckedExplainer) -> str:
    """Return the method's name in the field, or the name of its function or class."""
    return MethodName.of(explainer.method).title if explainer.method else explainer.name


def own_arguments(explainer: CheckedExplainer, preset: str) -> dict[str, Any]:
    """Return the arguments that the user set: all but the checkpoint and those that the preset sets."""
    chosen = PRESETS.get(preset).method_arguments(explainer.name)
    return {
        name: value
        for name, value in explainer.arguments.items()
        if name != "checkpoint" and not (name in chosen and chosen[name] == value)
    }


def _build(
    frozen: FrozenClassifier, at_layers: FrozenClassifier, asked: str | ExplainFunction, choices: MethodChoices
) -> CheckedExplainer:
    """Build a method; one with a checkpoint reads the layers of the checkpoint, the others those of the preset."""
    if not isinstance(asked, str):
        return build_explainer(at_layers, asked)
    name = MethodName.of(asked)
    own = choices.arguments.get(name.name, {})
    arguments = resolve_arguments(name, PRESETS.get(choices.preset), choices.checkpoint, own)
    return build_explainer(frozen if name.learned else at_layers, asked, **arguments)


def _check_arguments(arguments: Mapping[str, Mapping[str, Any]], methods: Iterable[str]) -> None:
    known = list(dict.fromkeys(methods))
    for method in arguments:
        if method not in known:
            raise InputError(
                f"expected arguments of the methods that are evaluated ({', '.join(known) or 'none by name'}), "
                f"got arguments of {method!r}"
            )


def _check_classifiers(classifier: FrozenClassifier, explainers: Iterable[CheckedExplainer]) -> None:
    """Check that explainers explain the classifier that is evaluated."""
    for explainer in explainers:
        other = explainer.classifier
        if other.module is classifier.module:
            continue
        if (other.spec.name, other.weights_hash) != (classifier.spec.name, classifier.weights_hash):
            raise InputError(
                f"expected explainers of one classifier, {classifier.spec.name} ({classifier.weights}), "
                f"got one of {other.spec.name} ({other.weights})"
            )


def _move(parts: Iterable[object], device: str) -> None:
    for part in parts:
        if isinstance(part, nn.Module):
            part.to(device)
