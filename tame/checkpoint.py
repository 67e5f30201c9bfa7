"""A checkpoint is the attention mechanism alone: safetensors with readable metadata, no Lightning.

A checkpoint is a folder with ``attention.safetensors`` and ``metadata.json``. The metadata also stand in the
header of the tensors' file, and are read from there: the file alone is enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tame.attention import build_attention
from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.files import replacing
from tame.model import ExplainedClassifier
from tame.versions import versions

FORMAT = "1"
TENSORS = "attention.safetensors"
METADATA = "metadata.json"


def describe(classifier: FrozenClassifier) -> dict[str, Any]:
    """Return what a checkpoint must agree with: backbone, weights, layers, number of classes."""
    return {
        "backbone": classifier.spec.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_hash,
        "layers": list(classifier.layers),
        "num_classes": classifier.spec.num_classes,
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
    metadata = {"format": FORMAT, **describe(model.classifier), **details, "versions": versions()}
    text = json.dumps(metadata, indent=2)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.attention.state_dict().items()}
    with replacing(folder / TENSORS) as temporary:
        save_file(tensors, temporary, metadata={"tame": text})
    with replacing(folder / METADATA) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return folder


def checkpoint_hash(path: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors file."""
    return hashlib.sha256(_tensors_file(path).read_bytes()).hexdigest()


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint, a folder or its ``attention.safetensors``.

    Raises:
        InputError: If there is no such checkpoint.
    """
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
    return metadata


def load_attention(path: str | Path, classifier: FrozenClassifier) -> nn.Module:
    """Load the attention mechanism of a checkpoint for ``classifier``, in eval mode.

    Args:
        path: A folder or its ``attention.safetensors``.
        classifier: Must be the classifier that the mechanism was trained through.

    Raises:
        InputError: If there is no such checkpoint, or saying what differs: backbone, weights, layers, classes.
    """
    metadata = read_metadata(path)
    own = describe(classifier)
    differences = [
        f"{words} {_short(metadata.get(key))}, not {_short(own[key])}"
        for key, words in (
            ("backbone", "backbone"),
            ("num_classes", "number of classes"),
            ("layers", "layers"),
            ("weights_sha256", "weights with hash"),
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
