"""Checkpoints of the authors' programs, recognised by their contents: T-TAME's (Lightning), TAME's and L-CAM's.

They are pickles and are read without executing code.
"""

from __future__ import annotations

import argparse
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tame.attention import LCAM_FORMS, build_attention
from tame.backbones.load import load_weights
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.classifier.extractor import layer_node, trace
from tame.utils.checks import InputError
from tame.utils.threads import PROCESS, random_state

OUTPUT_SIZE: Final = "first"
"""Side of the class maps in the authors' programs, see `tame.attention.TAME`."""

_VERSIONS = {
    "tame": "ttame",
    "ttame": "ttame",
    "noskipconnection": "ttame-no-skip",
    "noskipnobatchnorm": "ttame-no-skip-no-norm",
    "sigmoidinfeaturebranch": "ttame-sigmoid",
    "lcam": "lcam-img",
}
_MARKS = {"attn_mech", "attnM"}  # names of the mechanism's module in the authors' programs
_LAST = re.compile(r"(?:^|\.)(?:fuser|op)\.weight$")  # the last layer of every mechanism is one convolution
_BRANCH = re.compile(r"convs\.\d+\.weight$")
_WRAPPED = re.compile(r"(?:^|(?<=generic\.)|(?<=body\.)|(?<=attn_mech\.)|(?<=attnM\.))(?:module\.)+")


@dataclass(frozen=True)
class AuthorsCheckpoint:
    """Contents of a checkpoint of the authors' programs.

    Attributes:
        file: The file.
        program: ``T-TAME``, ``TAME`` or ``L-CAM``.
        attention: Name of the mechanism, see `tame.attention.ATTENTIONS`.
        state: Tensors of the mechanism.
        body: Tensors of the backbone; empty where the file has none. The counters of batch norms, which a frozen
            network never reads, are left out.
        backbone: Name of the backbone; empty where the file does not name it.
        layers: Feature layers, as names of the tracer's nodes; empty where the file does not name them.
        gate: Whether patch tokens are multiplied by the class token, see `TokenLayout`. Unused for feature maps.
        details: Other details of the training, plain JSON values.
    """

    file: Path
    program: str
    attention: str
    state: Mapping[str, Tensor]
    body: Mapping[str, Tensor] = field(default_factory=dict)
    backbone: str = ""
    layers: tuple[str, ...] = ()
    gate: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return len(next(value for key, value in self.state.items() if _LAST.search(key)))

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels C_i of the features that the mechanism takes."""
        if "op.weight" in self.state:
            return (self.state["op.weight"].shape[1],)
        weights = (key for key in self.state if _BRANCH.match(key))
        return tuple(self.state[key].shape[1] for key in sorted(weights, key=lambda key: int(key.split(".")[1])))

    def layers_of(self, spec: BackboneSpec) -> list[str]:
        """Return the modules whose outputs the mechanism takes: the file's, otherwise the spec's released layer set.

        Raises:
            InputError: If neither names them.
        """
        if self.layers:
            aliases, known = spec.layer_aliases, {layer for names in spec.layers.values() for layer in names}
            if set(self.layers) <= aliases.keys() | (known - set(aliases.values())):  # no need to build the network
                return [aliases.get(layer, layer) for layer in self.layers]
            with random_state():
                module = spec.build()
            return modules_of_nodes(module, self.layers)
        released = spec.layers.get("released", ())
        if self.attention in LCAM_FORMS:  # the last convolution, or the pooling after it
            last = dict.fromkeys(layer for layer in (*released[-1:], spec.cam_layer) if layer)
            if len(last) > 1:
                raise InputError(f"{self.file} does not name its layer: give layers, either {' or '.join(last)}")
            released = tuple(last)
        if not released:
            raise InputError(
                f"{self.file} does not name its layers, and {spec.name} has no released layer set: give layers, "
                f"{len(self.channels)} of {_listed(self.channels)} channels"
            )
        return list(released)

    def differences(self, classifier: FrozenClassifier) -> dict[str, float]:
        """Return the largest difference (or inf) of each of the file's tensors that differs from ``classifier``."""
        own, found = classifier.module.state_dict(), {}
        for key, value in self.body.items():
            if key not in own or own[key].shape != value.shape:
                found[key] = math.inf
            elif not torch.equal(mine := own[key].cpu(), theirs := value.to(own[key].dtype)):
                found[key] = float((mine - theirs).abs().max())
        return found

    def attention_for(self, classifier: FrozenClassifier) -> nn.Module:
        """Return the mechanism, in eval mode, for the classifier that it was trained with.

        Raises:
            InputError: For another classifier, naming the difference, or a file with tensors missing.
        """
        spec, layers = classifier.spec, classifier.layers
        check_backbone(self.file, self.backbone, spec.name)
        if self.num_classes != spec.num_classes:
            raise InputError(f"{self.file} was trained for {self.num_classes} classes, not {spec.num_classes}")
        named = tuple(modules_of_nodes(classifier.module, self.layers)) if self.layers else layers
        modules = dict(classifier.module.named_modules())
        if named != layers and set(named) <= modules.keys():  # names of no module are not compared
            raise InputError(f"{self.file} was trained for layers {_listed(named)}, not {_listed(layers)}")
        if self.channels != classifier.channels:
            raise InputError(
                f"{self.file} was trained for features of {_listed(self.channels)} channels, and {_listed(layers)} of "
                f"{spec.name} have {_listed(classifier.channels)}: give its own backbone or layers"
            )
        if spec.tokens is not None and spec.tokens.gate != self.gate:
            raise InputError(f"{self.file} needs tokens of {spec.name} with gate={self.gate}, got {spec.tokens.gate}")
        if different := self.differences(classifier):
            raise InputError(
                f"{self.file} was trained with other weights of {spec.name} than {classifier.weights} "
                f"({largest(different)}): give no weights to use those in the file"
            )
        attention = build_attention(self.attention, self.channels, self.num_classes, OUTPUT_SIZE)
        load_weights(attention, self.state, f"of the attention mechanism in {self.file}")
        return attention.eval().requires_grad_(False)


def is_authors_file(path: str | Path) -> bool:
    """Whether ``path`` is a file that torch wrote (a zip or a pickle); our own checkpoints are safetensors."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] != b"{" and (head.startswith(b"PK\x03\x04") or head[0] == 0x80)


def read_authors_file(path: str | Path) -> AuthorsCheckpoint:
    """Read a checkpoint of the authors' programs without executing code.

    Names of tensors: ``generic.attn_mech.*`` (T-TAME, with its backbone as ``generic.body.*`` and
    ``hyper_parameters``), ``convs.*``, ``bns.*`` and ``fuser.*`` after any prefix (TAME), or ``attnM.op.*`` (L-CAM);
    ``module.`` of data-parallel training is removed. Without hyper-parameters the mechanism is inferred from its
    tensors: the ablation with sigmoids is then read as T-TAME, and every form of L-CAM as L-CAM-Img, since their
    tensors have the same names and shapes.

    Raises:
        InputError: If the file cannot be read safely, or holds no known mechanism.
    """
    file = Path(path)
    content = _load(file)
    tensors = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not isinstance(tensors, Mapping):
        raise InputError(f"expected a checkpoint (a dict with a state_dict) in {file}, got {_kind(content)}")
    state = {_WRAPPED.sub("", str(key)): value for key, value in tensors.items() if isinstance(value, Tensor)}
    prefix = _prefix(file, state)
    mechanism = _below(state, prefix)
    if not prefix:
        mechanism = {key: value for key, value in state.items() if key.split(".")[0] in ("convs", "bns", "fuser", "op")}
    root = prefix.partition("attn_mech.")[0] if "attn_mech." in prefix else ""
    body = _below(state, f"{root}body.") or _below(state, f"{root}arrangement.body.")
    hyper = content.get("hyper_parameters")
    hyper = {str(key): value for key, value in hyper.items() if _plain(value)} if isinstance(hyper, Mapping) else {}
    version, layers = str(hyper.get("attention_version", "")), hyper.get("layers")
    training = {"epoch": content.get("epoch"), "epochs": hyper.get("epochs"), "hyper_parameters": hyper}
    return AuthorsCheckpoint(
        file=file,
        program="T-TAME" if "pytorch-lightning_version" in content else "L-CAM" if "op.weight" in mechanism else "TAME",
        attention=_attention(file, version, mechanism),
        state=mechanism,
        body={key: value for key, value in body.items() if not key.endswith("num_batches_tracked")},
        backbone=str(hyper.get("model_name") or ""),
        layers=tuple(map(str, layers)) if isinstance(layers, list | tuple) else (),
        gate=_word(version) == "ttame",
        details={name: value for name, value in training.items() if value or isinstance(value, int)},
    )


def modules_of_nodes(module: nn.Module, nodes: Sequence[str]) -> list[str]:
    """Return the modules that names of the tracer's nodes stand for; other names are returned unchanged.

    The tracer strips ``_1`` and counts calls: module ``ln_1`` is node ``ln``, ``ln_2`` is node ``ln_1``, and the second
    call of module ``relu`` is node ``relu_1``.

    Raises:
        InputError: For a node that is not the last call of its module: a module stands for its last output.
    """
    traced = trace(module)
    calls = {path: node for node, path in traced.paths.items() if node.op == "call_module"}
    found = [str(calls[name].target) if name in calls else name for name in nodes]
    for name, layer in zip(nodes, found, strict=True):
        if name in calls and layer_node(module, layer, traced) is not calls[name]:
            raise InputError(f"the layer {name} of the file is not the last call of the module {layer}")
    return found


def check_backbone(file: str | Path, named: str, own: str) -> None:
    """Check that a checkpoint that names a backbone was trained for the backbone ``own``.

    Raises:
        InputError: Naming the backbone of the checkpoint.
    """
    if named and named != own:
        raise InputError(f"the checkpoint {file} was trained for backbone {named}, not {own}: use it with {named}")


def largest(differences: Mapping[str, float]) -> str:
    """Return a sentence with the number of tensors that differ, and the one that differs most."""
    key = max(differences, key=lambda key: differences[key])
    return f"{len(differences)} tensors differ, the most by {differences[key]:.3g} in {key}"


def _load(file: Path) -> Any:
    try:
        with PROCESS, torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # the readers fail on a broken file in many ways
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{file} was refused without executing code from it: it would call {found[1]}, and a checkpoint "
                "contains only tensors, numbers and text"
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise InputError(f"{file} cannot be read as a checkpoint: {reason[:200]}") from error


def _prefix(file: Path, state: Mapping[str, Tensor]) -> str:
    """Return the prefix of the names of the mechanism's tensors."""
    ends = [key for key in state if _LAST.search(key) and "body" not in key.split(".")]
    ends = [key for key in ends if _MARKS & set(key.split("."))] or ends
    if len(ends) != 1:
        got = _listed(ends or list(state)[:3]) or "no tensors"
        raise InputError(
            f"expected one attention mechanism in {file} (convs, bns and fuser of T-TAME, op of L-CAM), got {got}"
        )
    found = re.search(r"(?:fuser|op)\.weight$", ends[0])
    return ends[0][: found.start()] if found else ""


def _attention(file: Path, version: str, state: Mapping[str, Tensor]) -> str:
    """Return the registered name of the mechanism, inferred from its tensors where the file does not name it."""
    for key, value in state.items():
        if (_LAST.search(key) or _BRANCH.match(key)) and value.ndim != 4:
            raise InputError(f"{key} in {file} is {tuple(value.shape)}: expected the weights of a convolution")
    if version:
        if _word(version) not in _VERSIONS:
            raise InputError(f"unknown attention_version {version!r} in {file}; known: {', '.join(_VERSIONS)}")
        return _VERSIONS[_word(version)]
    if "op.weight" in state:
        return "lcam-img"
    if not any(key.startswith("bns.") for key in state):
        return "ttame-no-skip-no-norm"
    shapes = [value.shape for key, value in state.items() if _BRANCH.match(key)]
    return "ttame" if all(shape[0] == shape[1] for shape in shapes) else "ttame-no-skip"


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _word(version: str) -> str:
    return re.sub(r"[^a-z0-9]", "", version.lower())


def _plain(value: Any) -> bool:
    """Whether a value can be stored as JSON."""
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | int | float)


def _kind(content: object) -> str:
    return f"a dict with {_listed(list(content)[:5])}" if isinstance(content, Mapping) else type(content).__name__


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
