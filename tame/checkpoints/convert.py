"""From a checkpoint of the authors' programs to one of ours."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from tame.attention.model import ExplainedClassifier
from tame.backbones import find_spec, load_backbone
from tame.checkpoints.authors import Published, is_published, largest, read_published
from tame.checkpoints.native import (
    BACKBONE_TENSORS,
    TENSORS,
    checkpoint_hash,
    published_details,
    read_metadata,
    save_attention,
    save_backbone,
    spec_for,
)
from tame.classifier import BackboneSpec, FrozenClassifier
from tame.options import ImportOptions
from tame.utils.checks import InputError

logger = logging.getLogger(__name__)


def import_checkpoint(options: ImportOptions) -> Path:
    """Write a checkpoint of the authors' programs as an ordinary one.

    Where the file holds a backbone that differs from the one in use, a warning says how much, and the file's is written
    beside the mechanism and used from then on: the mechanism was trained through it.

    Returns:
        The folder of the checkpoint.

    Raises:
        InputError: For a file that is none of theirs or cannot be read safely; for a backbone, weights or layers that
            do not fit it; for a folder that holds another checkpoint.
    """
    if len(options.file) != 1:
        raise InputError(f"expected one file to import, got {len(options.file)}")
    file = Path(options.file[0])
    if not is_published(file):
        raise InputError(f"expected a checkpoint of the authors' programs (a file that torch wrote), got {file}")
    published, sha256 = read_published(file), checkpoint_hash(file)
    out = Path(options.out) if options.out else file.with_name(f"{file.stem}-explainer")
    _check_free(out, sha256)
    backbone = options.backbone or published.backbone
    if not backbone:
        raise InputError(f"{file} does not name its backbone: give --backbone")
    spec = spec_for(file, find_spec(backbone))
    classifier, own = _classifier(published, spec, options)
    model = ExplainedClassifier(classifier, published.attention_for(classifier))
    source = {"program": published.program, "file": file.name, "sha256": sha256}
    if own:
        save_backbone(out, classifier)
    else:
        (out / BACKBONE_TENSORS).unlink(missing_ok=True)
    return save_attention(out, model, published_details(published) | {"source": source})


def _classifier(published: Published, spec: BackboneSpec, options: ImportOptions) -> tuple[FrozenClassifier, bool]:
    """Load the backbone, and say whether it is the file's own because the asked weights differ from it."""
    layers = options.layers or published.layers_of(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights are those of the other commands
        classifier = load_backbone(spec, options.weights, layers)
    different = published.differences(classifier)
    if not different:
        return classifier, False
    spec = replace(classifier.spec, weights={published.file.name: lambda: published.body})
    own = load_backbone(spec, published.file.name, classifier.layers)
    logger.warning(
        "The backbone in %s is not %s with weights %s: %s. The explainer uses the one in the file.",
        published.file,
        spec.name,
        classifier.weights,
        largest(different),
    )
    return own, True


def _check_free(out: Path, sha256: str) -> None:
    """Check that ``out`` holds no checkpoint but one imported from the same file."""
    if out.is_file():
        raise InputError(f"expected a folder as --out, got the file {out}")
    if (out / TENSORS).exists() and read_metadata(out).get("source", {}).get("sha256") != sha256:
        raise InputError(f"{out} holds another checkpoint: give another --out")
