"""Explain image files by methods and backbones that are named."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from torch import nn

from tame.checkpoints.classifier import checkpoints_by_backbone
from tame.classifier import FrozenClassifier
from tame.data import check_no_address, own_outputs, walk_images
from tame.explainers.build import MethodName
from tame.inference.batch import Classes
from tame.inference.build import (
    Backbone,
    Classifier,
    MethodRequest,
    build_explainers,
    check_checkpoint_is_used,
    check_loading,
    default_method,
)
from tame.inference.result import ExplainReport
from tame.inference.write import check_files, write_explanations
from tame.presets import PRESETS
from tame.utils.checks import InputError

logger = logging.getLogger("tame")


def explain_files(
    images: Sequence[str | Path] = (),
    *,
    backbone: str | Path | FrozenClassifier | nn.Module | Sequence[str | Path | FrozenClassifier | nn.Module] | None = (
        None
    ),
    method: str | Sequence[str] | None = None,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    target: Sequence[str | int] = (),
    top: int = 1,
    preset: str = "tame",
    batch_size: int = 8,
    num_workers: int = 0,
    out: str | Path = "explanations",
    resume: bool = True,
    progress: bool = True,
    **classifier: Any,
) -> ExplainReport:
    """Explain image files, by one method or several: overlays, maps and a manifest, and grids that compare methods.

    Names, classes and arguments are checked before anything is loaded, and everything is built before the first image
    is explained. What is written, and where, is described at `tame.inference.write_explanations`.

    Args:
        images: Image files or folders of images; default: the two bundled images.
        backbone: Classifiers, see `tame list backbones`; several are compared. Default: that of the checkpoint,
            otherwise efficientnet_lite0.
        method: Explanation methods, see `tame list methods`; ttame@FOLDER names a checkpoint. Several are compared in
            grids, and each writes to its own folder. Default: ttame with a checkpoint or a shipped one, otherwise
            gradcam.
        checkpoint: Trained attention mechanism, a folder or file; with several backbones one for each; default: the one
            that is shipped for the backbone.
        arguments: Arguments of methods, by method: {"rise": {"masks": 500}}; default: each method's own.
        target: Classes to explain, indices or names; default: the predicted class.
        top: Number of the most confident classes to explain, if no target is named.
        preset: paper, released or tame, see `tame list presets`.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        out: Folder of the overlays, maps and manifest.json.
        resume: Resume an interrupted run; false starts over.
        progress: Show a progress bar.
        classifier: Arguments of `tame.load_classifier`, such as ``weights`` and ``device``.

    Returns:
        The manifest's entries, and the files that could not be read.

    Raises:
        InputError: For anything that cannot be used.

    Example:
        >>> from tempfile import mkdtemp
        >>> report = explain_files(target=["Egyptian cat"], out=mkdtemp(), progress=False)
        >>> [(entry["method"], entry["map"]) for entry in report.entries]
        [('ttame', 'chelsea.285.npy'), ('ttame', 'coffee.285.npy')]
    """
    files = collect_images(_sequence(images)) if images else bundled_images()
    check_files(files, batch_size, num_workers)
    loading, chosen, own_arguments = check_loading(classifier), PRESETS.get(preset), arguments or {}
    methods = None if method is None else _checked_names(_sequence(method))
    learned = [MethodName.of(name) for name in methods or ["ttame"] if MethodName.of(name).learned]
    named = [*filter(None, (name.checkpoint for name in learned)), *(_sequence(checkpoint) if learned else [])]
    backbones = _backbones([None] if backbone is None else _sequence(backbone), loading, named)
    spec = backbones[0].spec
    classes = Classes(tuple(spec.resolve_target(each) for each in _sequence(target)) or None, top)
    classes.check(spec)
    checkpoints = _checkpoints(_sequence(checkpoint), [each.spec.name for each in backbones])
    requests = [
        [
            MethodRequest.of(name, each.spec, chosen, found, _arguments_of(name, own_arguments))
            for name in methods or [default_method(each, found)]
        ]
        for each, found in zip(backbones, checkpoints, strict=True)
    ]
    together = [request for own in requests for request in own]
    check_checkpoint_is_used(next(filter(None, checkpoints), None), together)
    _check_arguments_are_used(own_arguments, together)
    explainers = [
        explainer
        for each, own in zip(backbones, requests, strict=True)
        for explainer in build_explainers(each, own, chosen)
    ]
    return write_explanations(
        files,
        explainers,
        out=out,
        classes=classes,
        batch_size=batch_size,
        num_workers=num_workers,
        resume=resume,
        progress=progress,
    )


def collect_images(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files among ``paths`` and all images in the folders among them, each once.

    Pictures that this package wrote are left out, with a log message.

    Raises:
        InputError: For a path that does not exist, an address such as https://..., a folder without images, or no path
            but pictures that this package wrote.
    """
    found: list[Path] = []
    own: list[Path] = []
    outputs = cache(own_outputs)
    for path in map(Path, paths):
        check_no_address(path)
        if not os.path.exists(path):  # noqa: PTH110 - is false for a name that is too long
            raise InputError(f"expected an image file or a folder of images, got {path}, which does not exist")
        if path.is_dir():
            found += [entry.path for entry in walk_images(path)]
        else:
            (own if path.name in outputs(path.parent) else found).append(path)
    if own:
        logger.warning("Left out %d pictures that this package wrote, such as %s.", len(own), own[0])
    if own and not found:
        raise InputError(f"expected images to explain, got pictures that this package wrote, such as {own[0]}")
    return list(dict.fromkeys(found))


def bundled_images() -> list[Path]:
    """Return the images that come with the package.

    Example:
        >>> [path.name for path in bundled_images()]
        ['chelsea.jpg', 'coffee.jpg']
    """
    return sorted(Path(str(package_files("tame") / "assets" / "photographs")).glob("*.jpg"))


def _sequence(values: Any) -> list[Any]:
    """Return one value, several or none as a list."""
    if values is None:
        return []
    return [values] if isinstance(values, str | int | Path | nn.Module) else list(values)


def _checked_names(methods: list[str]) -> list[str]:
    """Check names of methods, before any backbone is looked at."""
    if not methods or len(set(methods)) < len(methods):
        raise InputError(f"expected methods of different names, got {', '.join(methods) or 'none'}")
    for name in methods:
        MethodName.of(name).registered  # noqa: B018 - raises for an unknown name
    return methods


def _backbones(
    backbones: list[Classifier | None], loading: Mapping[str, Any], checkpoints: Sequence[str | Path]
) -> list[Backbone]:
    """Describe backbones; a single one as its first checkpoint records it."""
    first = checkpoints[0] if checkpoints and len(backbones) == 1 else None
    found = [Backbone.of(backbone, loading, first) for backbone in backbones]
    names = [backbone.spec.name for backbone in found]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"expected backbones of different names, got {', '.join(names) or 'none'}; "
            "a network is named by FrozenClassifier.from_module(network, name=...)"
        )
    return found


def _checkpoints(paths: list[str | Path], backbones: list[str]) -> list[str | Path | None]:
    """Return each backbone's checkpoint; a single one need not name its backbone, if that is single too."""
    if len(paths) == len(backbones) == 1:
        return list(paths)
    found = checkpoints_by_backbone(paths, backbones)
    return [found.get(backbone) for backbone in backbones]


def _arguments_of(method: str, arguments: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return a method's arguments, given under its name with or without the checkpoint."""
    return arguments.get(method) or arguments.get(MethodName.of(method).name) or {}


def _check_arguments_are_used(arguments: Mapping[str, Mapping[str, Any]], requests: list[MethodRequest]) -> None:
    names = [request.name for request in requests]
    if unknown := sorted(arguments.keys() - {*names} - {MethodName.of(name).name for name in names}):
        raise InputError(f"expected arguments of {', '.join(dict.fromkeys(names))}, got some of {', '.join(unknown)}")
