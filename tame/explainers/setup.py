"""From options to a classifier on its device and an explainer for it."""

from __future__ import annotations

from typing import Any, NamedTuple

from tame.backbones import FrozenClassifier, load_backbone
from tame.checkpoint import checkpoint_hash, read_metadata, shipped_checkpoint
from tame.checks import InputError
from tame.devices import resolve_device
from tame.explainers.base import build_explainer
from tame.explainers.learned import LEARNED
from tame.options import CommonOptions, MethodOptions
from tame.presets import PRESETS
from tame.types import Explainer


class Setup(NamedTuple):
    """A classifier on its device, an explainer of it, and where both come from as plain JSON values."""

    classifier: FrozenClassifier
    explainer: Explainer
    provenance: dict[str, Any]


def set_up(common: CommonOptions, method: MethodOptions) -> Setup:
    """Load the backbone and build the method that the options name.

    The layers are those asked for, else those of the checkpoint in use, else the preset's.

    Raises:
        InputError: For anything that cannot be used.
    """
    preset = PRESETS.get(common.preset)
    device = resolve_device(common.device)
    layers: str | list[str] = common.layers or preset.layers
    checkpoint = method.checkpoint or shipped_checkpoint(common.backbone) if method.method in LEARNED else ""
    if checkpoint and not common.layers:
        metadata = read_metadata(checkpoint)
        if metadata["backbone"] != common.backbone:  # its layers would not be found, which says less
            raise InputError(
                f"the checkpoint {checkpoint} was trained for backbone {metadata['backbone']}, not {common.backbone}"
            )
        layers = metadata["layers"]
    classifier = load_backbone(common.backbone, common.weights, layers).to(device)
    provenance = {"method": method.method, "preset": common.preset}
    if checkpoint:
        provenance |= {"checkpoint": str(checkpoint), "checkpoint_sha256": checkpoint_hash(checkpoint)}
    if method.cam_layer:
        provenance |= {"cam_layer": method.cam_layer}
    return Setup(classifier, build_explainer(classifier, method), provenance)
