"""Build a frozen classifier from a name: spec, weights, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tame.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from tame.backbones.spec_files import SUFFIXES, read_spec_file
from tame.backbones.timm import PREFIX as TIMM
from tame.backbones.timm import timm_spec
from tame.backbones.torchvision import torchvision_names, torchvision_spec
from tame.classifier.frozen import FrozenClassifier
from tame.classifier.outputs import with_output
from tame.classifier.probing.infer_spec import infer_spec, resolve_layers, with_overrides
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.imports import import_function
from tame.utils.registry import Registry

OWN = "own"
"""Name of the weights that a user's function brings along."""

_NOTHING = SpecOverrides()

BACKBONES = Registry[BackboneSpec]("backbone")
BACKBONES.register(EFFICIENTNET_LITE0.name)(EFFICIENTNET_LITE0)
for _name in torchvision_names():
    BACKBONES.register(_name)(torchvision_spec(_name))


def find_spec(backbone: str | Path, overrides: SpecOverrides = _NOTHING) -> BackboneSpec:
    """Return the spec of a classifier.

    Args:
        backbone: A name of `BACKBONES`, ``timm:NAME``, ``package.module:function`` (also from the working folder; the
            function returns an nn.Module), or a spec file, see `tame.backbones.spec_files`.
        overrides: What is known of it beside that; it comes before what a spec file says.

    Raises:
        InputError: For a backbone that does not exist, or contradicts what is overrides.
    """
    backbone, path = str(backbone), Path(backbone)
    if path.suffix in SUFFIXES:
        return _spec_of_file(path.resolve(), path.stat().st_mtime_ns if path.is_file() else 0, overrides)
    return _spec_of_code(backbone, overrides) if ":" in backbone else _spec_of(backbone, overrides, {})


@lru_cache  # a network is built to be described: once
def _spec_of_code(backbone: str, overrides: SpecOverrides) -> BackboneSpec:
    return _spec_of(backbone, overrides, {})


@lru_cache
def _spec_of_file(path: Path, _changed: int, overrides: SpecOverrides) -> BackboneSpec:
    file = read_spec_file(path)
    known = overrides.over(file.overrides)
    spec = replace(_spec_of(file.builder, known, file.arguments), name=file.name)
    if weights := known.weights:
        return replace(spec, weights={weights: lambda: read_state_dict(Path(weights), spec)})
    return spec


def _spec_of(builder: str, overrides: SpecOverrides, arguments: Mapping[str, Any]) -> BackboneSpec:
    """Return the spec of what ``builder`` builds, with what is given in its place."""
    if builder.startswith(TIMM):
        spec = timm_spec(builder.removeprefix(TIMM), overrides, arguments)
    elif ":" in builder:
        function = import_function(builder, "builder of a network")
        spec = infer_spec(builder, partial(function, **arguments), overrides, weights={OWN: lambda: None})
    elif builder in torchvision_names():
        spec = torchvision_spec(builder, overrides, arguments)
    else:
        spec = BACKBONES.get(builder)
        if arguments or overrides.num_classes not in (None, spec.num_classes):
            raise InputError(f"expected {builder} as it is, with {spec.num_classes} classes and no arguments")
    return with_overrides(spec, overrides)


def load_backbone(
    backbone: str | Path | BackboneSpec,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    overrides: SpecOverrides = _NOTHING,
) -> FrozenClassifier:
    """Build a frozen classifier.

    Args:
        backbone: See `find_spec`; or a spec.
        weights: Name of published weights, path of a state_dict (``.pth``, ``.pt``, ``.safetensors``; loaded
            without executing code), or ``random``; default: those of the spec file, otherwise the first published ones.
        layers: Name of a layer set of the spec, or module names; default: the proposed ones.
        overrides: What is known of the backbone, see `find_spec`.

    Raises:
        InputError: For an unknown name, weights that do not fit, or layers that do not exist.
    """
    spec = backbone if isinstance(backbone, BackboneSpec) else find_spec(backbone, overrides)
    spec, module, name = load_network(spec, weights)
    chosen = resolve_layers(spec, module, layers or "proposed")
    return FrozenClassifier(spec, module, chosen, name, layers_named=layers is not None)


def load_network(spec: BackboneSpec, weights: str | Path | None = None) -> tuple[BackboneSpec, nn.Module, str]:
    """Build a network and load its weights.

    Args:
        spec: Of the classifier.
        weights: See `load_backbone`.

    Returns:
        The spec with the preprocessing of these weights, the network in eval mode, and the name of the weights.
    """
    module = spec.build().eval()
    name = str(weights) if weights else next(iter(spec.weights), "random")
    if name in spec.weights:
        if (state := spec.weights[name]()) is not None:
            load_weights(module, state, name)
        spec = replace(spec, preprocessing=spec.weights_preprocessing.get(name, spec.preprocessing))
    elif name != "random":
        load_weights(module, read_state_dict(Path(name), spec), name)
    return spec, with_output(spec, module), name


def read_state_dict(path: Path, spec: BackboneSpec) -> Mapping[str, Tensor]:
    """Read a state_dict from a file without executing code; ``module.`` prefixes are stripped.

    Raises:
        InputError: If the file is absent, unreadable, or holds no state_dict.
    """
    if not path.is_file():
        known = ", ".join([*spec.weights, "random"])
        raise InputError(f"no weights {str(path)!r} for {spec.name}: expected a file or one of {known}")
    try:
        state: object = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except Exception as error:  # a broken file breaks the readers in many ways
        raise InputError(f"{path} holds no weights that can be loaded safely: {error}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"expected a state_dict (names and tensors) in {path}, got {type(state).__name__}")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``, every key.

    Raises:
        InputError: Naming the first keys and shapes that do not fit.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"the weights {source} do not fit {type(module).__name__}: {'; '.join(problems[:3])}{more}")
    module.load_state_dict(state, strict=False)
