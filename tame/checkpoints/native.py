"""A checkpoint is the attention mechanism alone: safetensors with readable metadata, no Lightning.

A checkpoint is a folder with ``attention.safetensors`` and ``metadata.json``. The metadata also stand in the
header of the tensors' file, and are read from there: the file alone is enough. An imported explainer whose backbone
has weights of its own has them beside it, in ``backbone.safetensors``. In the place of a folder there may be a file of
the authors' programs, see `tame.checkpoints.authors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tame.attention import OLD_NAMES, build_attention
from tame.attention.model import ExplainedClassifier
from tame.checkpoints.authors import OUTPUT_SIZE, Published, check_backbone, is_published, read_published
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.utils.checks import InputError
from tame.utils.io import replacing
from tame.utils.versions import versions

FORMAT = "1"
TENSORS = "attention.safetensors"
BACKBONE_TENSORS = "backbone.safetensors"
METADATA = "metadata.json"


def describe(classifier: FrozenClassifier) -> dict[str, Any]:
    """Return what a checkpoint must agree with: backbone, weights, layers, number of classes.

    Where its confidences are no softmax, the ``score`` is said too, which need not agree. ``gate`` is said where patch
    tokens are multiplied by the class token.
    """
    tokens = classifier.spec.tokens
    score = {} if classifier.spec.score == "softmax" else {"score": classifier.spec.score}
    return score | {
        "backbone": classifier.spec.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_hash,
        "layers": list(classifier.layers),
        "num_classes": classifier.spec.num_classes,
        **({"gate": True} if tokens and tokens.gate else {}),
    }


def save_attention(folder: Path, model: ExplainedClassifier, details: Mapping[str, Any]) -> Path:
    """Write the attention mechanism of ``model``; a crash leaves the old checkpoint or the new one.

    Args:
        folder: Made where it is missing.
        model: Its classifier is described, not stored.
        details: How it came about (attention, output_size, preset, init, loss, images, epochs, metrics, ...);
            plain JSON values.

    Returns:
        The folder.
    """
    metadata = {"format": FORMAT, **details, **describe(model.classifier), "versions": versions()}
    text = json.dumps(metadata, indent=2)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.attention.state_dict().items()}
    with replacing(folder / TENSORS) as temporary:
        save_file(tensors, temporary, metadata={"tame": text})
    with replacing(folder / METADATA) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder


def checkpoint_hash(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors file."""
    with _tensors_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, a folder or its ``attention.safetensors``.

    A file of the authors' programs says less: an unknown ``backbone`` is empty, ``layers`` are what it calls them.

    Raises:
        InputError: If there is no such checkpoint.
    """
    if is_published(path):
        return published_details(read_published(path))
    file = _tensors_file(path)
    try:
        with safe_open(file, framework="pt") as tensors:
            header = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no checkpoint of an attention mechanism: {error}") from error
    if "tame" not in header:
        raise InputError(f"{file} is no checkpoint of an attention mechanism: it carries no metadata")
    metadata: dict[str, Any] = json.loads(header["tame"])
    if metadata.get("format") != FORMAT:
        raise InputError(f"expected a checkpoint of format {FORMAT}, got {metadata.get('format')} in {file}")
    name = metadata["attention"]
    return metadata | {"attention": OLD_NAMES.get(name, name)}


def published_details(published: Published) -> dict[str, Any]:
    """Return what a file of the authors' programs says, in the words of our own metadata."""
    return {
        "backbone": published.backbone,
        "layers": list(published.layers),
        "num_classes": published.num_classes,
        "attention": published.attention,
        "output_size": OUTPUT_SIZE,
        "preset": "released",
        **published.details,
    }


def spec_for(path: str | Path, spec: BackboneSpec) -> BackboneSpec:
    """Return ``spec`` with the gate of its tokens as a checkpoint needs it.

    Raises:
        InputError: If there is no such checkpoint, or it is of another backbone.
    """
    if published := read_published(path) if is_published(path) else None:
        named, gate = published.backbone, published.gate
    else:
        metadata = read_metadata(path)
        named, gate = metadata["backbone"], metadata.get("gate", False)
    check_backbone(path, named, spec.name)
    return replace(spec, tokens=replace(spec.tokens, gate=gate)) if spec.tokens else spec


def layers_of(path: str | Path, spec: BackboneSpec) -> list[str]:
    """Return the feature layers of a checkpoint, modules of the backbone ``spec``.

    Raises:
        InputError: If there is no such checkpoint, or it does not say them and the spec does not either.
    """
    layers: list[str] = read_published(path).layers_of(spec) if is_published(path) else read_metadata(path)["layers"]
    return layers


def own_backbone(path: str | Path) -> Mapping[str, Tensor]:
    """Return the weights of the backbone that a checkpoint brings along; empty where it brings none.

    Raises:
        InputError: If they cannot be read.
    """
    if is_published(path):
        return read_published(path).body
    file = _tensors_file(path).with_name(BACKBONE_TENSORS)
    try:
        return load_file(file) if file.is_file() else {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} holds no weights of a backbone: {error}") from error


def save_backbone(folder: Path, classifier: FrozenClassifier) -> None:
    """Write the weights of a classifier beside its checkpoint, which brings them along from then on."""
    tensors = {  # clones: tied weights share memory
        name: value.cpu().clone(memory_format=torch.contiguous_format)
        for name, value in classifier.module.state_dict().items()
    }
    with replacing(folder / BACKBONE_TENSORS) as temporary:
        save_file(tensors, temporary)


def load_attention(path: str | Path, classifier: FrozenClassifier) -> nn.Module:
    """Load the attention mechanism of a checkpoint for ``classifier``, in eval mode.

    Args:
        path: A folder or its ``attention.safetensors``, or a file of the authors' programs.
        classifier: Must be the classifier that the mechanism was trained through.

    Raises:
        InputError: If there is no such checkpoint, or saying what differs: backbone, weights, layers, classes.
    """
    if is_published(path):
        return read_published(path).attention_for(classifier)
    metadata, own = ({"gate": False} | known for known in (read_metadata(path), describe(classifier)))
    differences = [
        f"{words} {_short(metadata.get(key))}, not {_short(own[key])}"
        for key, words in (
            ("backbone", "backbone"),
            ("num_classes", "number of classes"),
            ("layers", "layers"),
            ("weights_sha256", "weights with hash"),
            ("gate", "a gate of its tokens"),
        )
        if metadata.get(key) != own[key]
    ]
    if differences:
        raise InputError(f"the checkpoint {path} was trained for {'; '.join(differences)}")
    attention = build_attention(
        metadata["attention"], classifier.channels, classifier.spec.num_classes, metadata["output_size"]
    )
    with safe_open(_tensors_file(path), framework="pt") as tensors:
        state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    try:
        attention.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the tensors of {path} do not fit its metadata: {error}") from error
    return attention.eval().requires_grad_(False)


def shipped_checkpoint(backbone: str) -> Path | None:
    """Return the checkpoint that travels with the package for ``backbone``, None where there is none."""
    folder = Path(str(files("tame") / "assets" / backbone))
    return folder if (folder / TENSORS).is_file() else None


def _tensors_file(path: str | Path) -> Path:
    file = Path(path) / TENSORS if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"no checkpoint at {path}: expected a folder with {TENSORS}, or that file")
    return file


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:12] + "..." if len(text) == 64 else text
