"""Checkpoints of attention mechanisms: safetensors with readable metadata, without Lightning.

A checkpoint is a folder with ``attention.safetensors`` and ``metadata.json``. The metadata are also stored in the
header of the tensors' file and are read from there, so that this file is enough. A converted checkpoint whose backbone
has weights of its own stores them in ``backbone.safetensors``. Instead of a folder, a checkpoint may be a file of the
authors' programs, see `tame.checkpoints.authors`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones.load import load_weights
from tame.checkpoints.authors import (
    OUTPUT_SIZE,
    AuthorsCheckpoint,
    check_backbone,
    is_authors_file,
    read_authors_file,
)
from tame.checkpoints.metadata import FORMAT, parse_metadata
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.utils.checks import InputError
from tame.utils.imports import absolute
from tame.utils.io import write_bytes, write_text
from tame.utils.versions import versions

TENSORS = "attention.safetensors"
BACKBONE_TENSORS = "backbone.safetensors"
METADATA = "metadata.json"


def describe(classifier: FrozenClassifier) -> dict[str, Any]:
    """Return what a checkpoint must agree with: backbone, weights, layers, number of classes, preprocessing.

    Confidences other than softmax are recorded as ``score``, which need not agree; ``gate`` is recorded where patch
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
        "preprocessing": json.loads(json.dumps(asdict(classifier.spec.preprocessing))),  # tuples as lists
        **({"gate": True} if tokens and tokens.gate else {}),
    }


def save_attention(folder: Path, model: ExplainedClassifier, details: Mapping[str, Any]) -> Path:
    """Write the attention mechanism of ``model``; each file is written atomically.

    Args:
        folder: Created if it does not exist.
        model: Its classifier is described, not stored.
        details: How the mechanism was trained (attention, output_size, preset, images, epochs, metrics, ...); plain
            JSON values.

    Returns:
        The folder.
    """
    loading = _how_to_load(model.classifier)
    metadata = {
        "format": FORMAT,
        **details,
        **describe(model.classifier),
        **({"classifier": loading} if loading else {}),
        "versions": versions(),
    }
    text = json.dumps(metadata, indent=2)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.attention.state_dict().items()}
    write_bytes(folder / TENSORS, save(tensors, metadata={"tame": text}))
    write_text(folder / METADATA, text + "\n")
    return folder


def _how_to_load(classifier: FrozenClassifier) -> dict[str, Any]:
    """Return the arguments of `tame.load_classifier` that load a classifier from any folder; empty if it has none."""
    loading = {name: value for name, value in classifier.source.items() if name != "layers"}  # these are described
    loading |= {name: absolute(loading[name]) for name in ("backbone", "weights") if name in loading}
    if "class_names" in loading:
        loading["class_names"] = list(classifier.spec.class_names)
    return loading


def checkpoint_hash(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors file."""
    with _tensors_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, a folder or its ``attention.safetensors``.

    A checkpoint of the authors' programs holds less: ``backbone`` is empty where it is unknown, and ``layers`` are the
    names that the file uses.

    Raises:
        InputError: If there is no such checkpoint.
    """
    if is_authors_file(path):
        return authors_details(read_authors_file(path))
    file = _tensors_file(path)
    try:
        with safe_open(file, framework="pt") as tensors:
            header = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is no checkpoint of an attention mechanism: {error}") from error
    if "tame" not in header:
        raise InputError(f"{file} is no checkpoint of an attention mechanism: it carries no metadata")
    return parse_metadata(header["tame"], file)


def authors_details(checkpoint: AuthorsCheckpoint) -> dict[str, Any]:
    """Return what a checkpoint of the authors' programs holds, under the keys of our own metadata."""
    return {
        "backbone": checkpoint.backbone,
        "layers": list(checkpoint.layers),
        "num_classes": checkpoint.num_classes,
        "attention": checkpoint.attention,
        "output_size": OUTPUT_SIZE,
        "preset": "released",
        **checkpoint.details,
    }


def spec_for(path: str | Path, spec: BackboneSpec) -> BackboneSpec:
    """Return ``spec`` with the token gate that a checkpoint needs.

    Raises:
        InputError: If there is no such checkpoint, or it is of another backbone.
    """
    if is_authors_file(path):
        authors = read_authors_file(path)
        named, gate = authors.backbone, authors.gate
    else:
        metadata = read_metadata(path)
        named, gate = metadata["backbone"], metadata.get("gate", False)
    check_backbone(path, named, spec.name)
    return replace(spec, tokens=replace(spec.tokens, gate=gate)) if spec.tokens else spec


def layers_of(path: str | Path, spec: BackboneSpec) -> list[str]:
    """Return the feature layers of a checkpoint, modules of the backbone ``spec``.

    Raises:
        InputError: If there is no such checkpoint, or neither the checkpoint nor the spec names the layers.
    """
    layers: list[str] = (
        read_authors_file(path).layers_of(spec) if is_authors_file(path) else read_metadata(path)["layers"]
    )
    return layers


def own_backbone(path: str | Path) -> Mapping[str, Tensor]:
    """Return the backbone's weights that are stored with a checkpoint; empty where there are none.

    Raises:
        InputError: If they cannot be read.
    """
    if is_authors_file(path):
        return read_authors_file(path).body
    file = _tensors_file(path).with_name(BACKBONE_TENSORS)
    try:
        return load_file(file) if file.is_file() else {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} holds no weights of a backbone: {error}") from error


def save_backbone(folder: Path, classifier: FrozenClassifier) -> None:
    """Write the weights of a classifier into the folder of its checkpoint; they are loaded with the checkpoint."""
    tensors = {  # clones: tied weights share memory
        name: value.cpu().clone(memory_format=torch.contiguous_format)
        for name, value in classifier.module.state_dict().items()
    }
    write_bytes(folder / BACKBONE_TENSORS, save(tensors))


def load_attention(path: str | Path, classifier: FrozenClassifier) -> nn.Module:
    """Load the attention mechanism of a checkpoint for ``classifier``, in eval mode.

    Args:
        path: A folder or its ``attention.safetensors``, or a checkpoint of the authors' programs.
        classifier: The classifier that the mechanism was trained with.

    Raises:
        InputError: If there is no such checkpoint, or its backbone, weights, layers or classes are others; the message
            names the differences.
    """
    if is_authors_file(path):
        return read_authors_file(path).attention_for(classifier)
    metadata, own = ({"gate": False} | known for known in (read_metadata(path), describe(classifier)))
    differences = [
        f"{words} {_short(metadata.get(key))}, not {_short(own[key])}"
        for key, words in (
            ("backbone", "backbone"),
            ("num_classes", "number of classes"),
            ("layers", "layers"),
            ("weights_sha256", "weights with hash"),
            ("gate", "a token gate of"),
        )
        if metadata.get(key) != own[key]
    ]
    trained, given = metadata.get("preprocessing") or {}, own["preprocessing"]  # earlier versions do not record it
    differences += [
        f"{key} {_short(trained[key])}, not {_short(given.get(key))}"
        for key in trained
        if trained[key] != given.get(key)
    ]
    if differences:
        raise InputError(f"the checkpoint {path} was trained for {'; '.join(differences)}")
    attention = build_attention(
        metadata["attention"], classifier.channels, classifier.spec.num_classes, metadata["output_size"]
    )
    with safe_open(_tensors_file(path), framework="pt") as tensors:
        state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    load_weights(attention, state, f"of the attention mechanism in {path}")
    return attention.eval().requires_grad_(False)


def shipped_checkpoint(backbone: str) -> Path | None:
    """Return the checkpoint that is shipped with the package for ``backbone``, None where there is none."""
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
