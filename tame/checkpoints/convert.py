"""Convert a checkpoint of the authors' programs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tame.attention.model import ExplainedClassifier
from tame.backbones import find_spec, load_backbone
from tame.checkpoints.authors import AuthorsCheckpoint, is_authors_file, largest, read_authors_file
from tame.checkpoints.native import (
    BACKBONE_TENSORS,
    TENSORS,
    authors_details,
    checkpoint_hash,
    read_metadata,
    save_attention,
    save_backbone,
    spec_for,
)
from tame.classifier import FrozenClassifier
from tame.utils.checks import InputError

logger = logging.getLogger("tame")


def convert_checkpoint(
    file: str | Path,
    *,
    backbone: str | Path | None = None,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    out: str | Path | None = None,
) -> Path:
    """Convert a checkpoint of the authors' programs.

    If the file contains a backbone whose weights differ from those in use, a warning says by how much. The file's
    weights are then stored with the converted checkpoint and used with it, since the mechanism was trained with them.

    Args:
        file: T-TAME's .ckpt file, or a snapshot (.pt) of TAME or L-CAM; recognised by its contents.
        backbone: The classifier that it was trained for, as in the other commands; default: the one that the file
            names.
        weights: Weights of the classifier, as in the other commands; they are compared with those in the file.
        layers: Feature layers, as module names; default: those in the file, otherwise the released layer set.
        out: Folder of the converted checkpoint; default: beside the file, NAME-explainer for NAME.ckpt.

    Returns:
        The folder of the converted checkpoint.

    Raises:
        InputError: For a file that is no checkpoint of the authors' programs or cannot be read safely; for a backbone,
            weights or layers that do not match it; for a folder that contains another checkpoint.
    """
    file = Path(file)
    if not is_authors_file(file):
        raise InputError(f"expected a checkpoint of the authors' programs (a file written by torch), got {file}")
    checkpoint, sha256 = read_authors_file(file), checkpoint_hash(file)
    folder = Path(out) if out is not None else file.with_name(f"{file.stem}-explainer")
    _check_folder(folder, sha256)
    classifier, own = _classifier(checkpoint, backbone, weights, layers)
    model = ExplainedClassifier(classifier, checkpoint.attention_for(classifier))
    source = {"program": checkpoint.program, "file": file.name, "sha256": sha256}
    stale = folder / BACKBONE_TENSORS
    if not own and stale.exists():  # of an earlier conversion of this file, see _check_folder
        logger.info("Removing %s: this conversion uses weights %s.", stale, classifier.weights)
        stale.unlink()
    save_attention(folder, model, authors_details(checkpoint) | {"source": source})
    if own:
        save_backbone(folder, classifier)
    return folder


def _classifier(
    checkpoint: AuthorsCheckpoint,
    backbone: str | Path | None,
    weights: str | Path | None,
    layers: str | Sequence[str] | None,
) -> tuple[FrozenClassifier, bool]:
    """Load the backbone; return it, and whether its weights are the file's because others were asked for."""
    named = backbone or checkpoint.backbone
    if not named:
        raise InputError(f"{checkpoint.file} does not name its backbone: give backbone")
    spec = spec_for(checkpoint.file, find_spec(named))
    classifier = load_backbone(spec, weights, layers or checkpoint.layers_of(spec), seed=0)  # as in other commands
    different = checkpoint.differences(classifier)
    if not different:
        return classifier, False
    spec = replace(classifier.spec, weights={checkpoint.file.name: lambda: checkpoint.body})
    own = load_backbone(spec, checkpoint.file.name, classifier.layers)
    logger.warning(
        "The backbone in %s differs from %s with weights %s: %s. The explainer uses the weights in the file.",
        checkpoint.file,
        spec.name,
        classifier.weights,
        largest(different),
    )
    return own, True


def _check_folder(folder: Path, sha256: str) -> None:
    """Check that ``folder`` contains no checkpoint, or an earlier conversion of the same file."""
    if folder.is_file():
        raise InputError(f"expected a folder as out, got the file {folder}")
    if (folder / TENSORS).exists():
        if read_metadata(folder).get("source", {}).get("sha256") != sha256:
            raise InputError(f"{folder} contains another checkpoint: give another out")
    elif (folder / BACKBONE_TENSORS).exists():
        raise InputError(f"{folder} contains {BACKBONE_TENSORS} of another checkpoint: give another out")
