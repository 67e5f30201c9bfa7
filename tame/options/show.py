"""What the commands that explain, look at networks and files, and list can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from tame.options.common import CommonOptions, MethodOptions, names_in


@dataclass
class ExplainOptions(MethodOptions, CommonOptions):
    """Explain photographs.

    Args:
        backbone: Classifiers separated by commas, see `tame list backbones`; several are compared.
        method: Explanation methods separated by commas, see `tame list methods`; ttame@FOLDER names a checkpoint.
            Several are compared in grids, and each writes to a folder of its own.
        checkpoint: Trained attention mechanism, a folder or file; several backbones: one of each, separated by commas;
            empty: the one shipped for the backbone.
        images: Image files or folders of images; none: two bundled photographs.
        target: Classes to explain, indices or names; empty: the best ones.
        top: Explain this many of the best classes, side by side.
        batch_size: Images per batch.
        out: Folder of the overlays, maps and manifest.json.
    """

    images: list[str] = field(default_factory=list)
    target: list[str] = field(default_factory=list)
    top: int = 1
    batch_size: int = 8
    out: str = "explanations"

    def backbones(self) -> tuple[str, ...]:
        """Return the asked backbones."""
        return names_in("--backbone", self.backbone)

    def methods(self) -> tuple[str, ...]:
        """Return the asked methods."""
        return names_in("--method", self.method)


@dataclass
class ImportOptions:
    """Turn a checkpoint of the authors' programs into one of ours.

    Args:
        file: The file: T-TAME's .ckpt, or a snapshot of TAME or L-CAM. It is recognised by what is in it.
        backbone: The classifier it was trained for, as in the other commands; empty: the one that the file names.
        weights: Weights of the classifier, as in the other commands. Those in the file are compared with them.
        layers: Feature layers, module names separated by commas; empty: those in the file, else the released ones.
        out: Folder of the checkpoint; empty: beside the file, its name with -explainer in the place of the suffix.
    """

    file: list[str] = field(default_factory=list)
    backbone: str = ""
    weights: str = ""
    layers: str = ""
    out: str = ""


@dataclass
class InspectOptions(CommonOptions):
    """Show the layers of a classifier, and propose feature layers.

    Args:
        model: The classifier, as --backbone of the other commands names it.
        weights: As in the other commands, but random by default: nothing is downloaded to look at layers.
        all: Every layer, also those inside blocks and those without maps or tokens.
    """

    model: list[str] = field(default_factory=list)
    weights: str = "random"
    all: bool = False


@dataclass
class ListOptions:
    """List what can be named in the other commands.

    Args:
        kinds: backbones, methods, metrics, presets or attention; none: all of them.
    """

    kinds: list[str] = field(default_factory=list)
