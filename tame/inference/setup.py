"""From options that name several methods or backbones to what explains."""

from __future__ import annotations

from dataclasses import replace

from tame.checkpoints.native import read_metadata
from tame.explainers import EXPLAINERS
from tame.explainers.setup import set_up_together, spec_of
from tame.inference.one import Method
from tame.options import ExplainOptions
from tame.utils.checks import InputError
from tame.utils.devices import resolve_device


def set_up_methods(options: ExplainOptions) -> list[Method]:
    """Load each backbone once and build every method for it: the first backbone's methods come first.

    Names are checked before anything is loaded, and everything is built before anything is explained. A method with
    a checkpoint of its own is written ``lcam_img@FOLDER``.

    Raises:
        InputError: For anything that cannot be used.
    """
    backbones, names = options.backbones(), options.methods()
    asked = [name.partition("@")[::2] for name in names]  # method and checkpoint
    for method, _ in asked:
        if ":" not in method:  # else a function of the user's own
            EXPLAINERS.get(method)
    specs = {backbone: spec_of(replace(options, backbone=backbone)).name for backbone in backbones}
    checkpoints = {specs[backbones[0]]: options.checkpoint}
    if len(backbones) > 1:
        checkpoints = _checkpoints(options.checkpoint, tuple(specs.values()))
    device = resolve_device(options.device)
    methods = []
    for backbone in backbones:
        own = replace(options, backbone=backbone, checkpoint=checkpoints.get(specs[backbone], ""))
        requests = [replace(own, method=method, checkpoint=path or own.checkpoint) for method, path in asked]
        setups = set_up_together([(one, one) for one in requests], device)
        methods += [
            Method(setup.classifier, setup.explainer, name, options.preset)
            for name, setup in zip(names, setups, strict=True)
        ]
    return methods


def _checkpoints(paths: str, backbones: tuple[str, ...]) -> dict[str, str]:
    """Return checkpoints, separated by commas, by the backbone that each was trained for."""
    found: dict[str, str] = {}
    for path in filter(None, map(str.strip, paths.split(","))):
        if not (backbone := read_metadata(path)["backbone"]):
            raise InputError(f"the checkpoint {path} does not name its backbone: give it with one --backbone")
        if backbone not in backbones:
            raise InputError(f"the checkpoint {path} was trained for backbone {backbone}, not {' or '.join(backbones)}")
        if backbone in found:
            raise InputError(f"expected one checkpoint for backbone {backbone}, got {found[backbone]} and {path}")
        found[backbone] = path
    return found
