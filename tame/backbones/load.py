"""Load a classifier by name: find its spec, build the network, load weights, choose feature layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tame.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from tame.backbones.spec_files import SUFFIXES, read_spec_file
from tame.backbones.state_dicts import matching_weights, read_weights_file
from tame.backbones.timm import PREFIX as TIMM
from tame.backbones.timm import timm_spec
from tame.backbones.torchvision import torchvision_names, torchvision_spec
from tame.classifier.frozen import FrozenClassifier
from tame.classifier.outputs import with_output
from tame.classifier.probing.infer_spec import infer_spec, with_overrides
from tame.classifier.probing.overrides import SpecOverrides
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError
from tame.utils.imports import import_function
from tame.utils.registry import Registry
from tame.utils.threads import random_state

OWN = "own"
"""Name of the weights that a user's function loads itself."""

_NOTHING = SpecOverrides()

BACKBONES = Registry[BackboneSpec]("backbone")
BACKBONES.register(EFFICIENTNET_LITE0.name)(EFFICIENTNET_LITE0)
for _name in torchvision_names():
    BACKBONES.register(_name)(torchvision_spec(_name))


def find_spec(backbone: str | Path, overrides: SpecOverrides = _NOTHING) -> BackboneSpec:
    """Return the spec of a classifier.

    Args:
        backbone: A name of `BACKBONES`, ``timm:NAME``, ``package.module:function`` that returns an nn.Module (also from
            the working directory), ``path/to/file.py:function``, or a spec file, see `tame.backbones.spec_files`.
        overrides: Properties that replace the backbone's own and those of a spec file.

    Raises:
        InputError: If the backbone does not exist, or contradicts the overrides.
    """
    backbone, path = str(backbone), Path(backbone)
    if path.suffix in SUFFIXES:
        return _spec_of_file(path.resolve(), path.stat().st_mtime_ns if path.is_file() else 0, overrides)
    if ":" not in backbone:
        return _spec_of(backbone, overrides, {})
    code = Path(backbone.rpartition(":")[0])
    return _spec_of_code(backbone, code.stat().st_mtime_ns if code.is_file() else 0, overrides)


def is_code(backbone: str) -> bool:
    """Return whether a backbone is named by code that builds it: a function, or a spec file, which names one.

    Example:
        >>> is_code("net.py:build"), is_code("net.toml"), is_code("timm:resnet18"), is_code("resnet18")
        (True, True, False, False)
    """
    return Path(backbone).suffix in SUFFIXES or (":" in backbone and not backbone.startswith(TIMM))


@lru_cache  # inferring a spec builds the network
def _spec_of_code(backbone: str, _changed: int, overrides: SpecOverrides) -> BackboneSpec:
    return _spec_of(backbone, overrides, {})


@lru_cache
def _spec_of_file(path: Path, _changed: int, overrides: SpecOverrides) -> BackboneSpec:
    file = read_spec_file(path)
    known = overrides.over(file.overrides)
    spec = replace(_spec_of(file.builder, known, file.arguments), name=file.name)
    if weights := known.weights:
        return replace(spec, weights={weights: lambda: _read_weights(Path(weights), spec)})
    return spec


def _spec_of(builder: str, overrides: SpecOverrides, arguments: Mapping[str, Any]) -> BackboneSpec:
    """Return the spec of the network that ``builder`` builds with these arguments."""
    if builder.startswith(TIMM):
        spec = timm_spec(builder.removeprefix(TIMM), overrides, arguments)
    elif ":" in builder:
        function = import_function(builder, "backbone")
        name = Path(builder).name if ".py:" in builder else builder  # a file keeps its name in another folder
        spec = infer_spec(name, partial(function, **arguments), overrides, weights={OWN: lambda: None})
    elif builder in torchvision_names():
        spec = torchvision_spec(builder, overrides, arguments)
    else:
        spec = BACKBONES.get(builder)
        if arguments or overrides.num_classes not in (None, spec.num_classes):
            raise InputError(f"expected {spec.num_classes} classes and no builder arguments for {builder}")
    return with_overrides(spec, overrides)


def load_backbone(
    backbone: str | Path | BackboneSpec,
    weights: str | Path | None = None,
    layers: str | Sequence[str] | None = None,
    overrides: SpecOverrides = _NOTHING,
    seed: int | None = None,
) -> FrozenClassifier:
    """Load a classifier and freeze it.

    Args:
        backbone: The backbone, see `find_spec`, or its spec.
        weights: Name of published weights, path of a weights file (``.pth``, ``.pt``, ``.ckpt``, ``.safetensors``; read
            without executing code, see `tame.backbones.state_dicts`), or ``random``; default: those of the spec file,
            otherwise the first published ones.
        layers: Name of a layer set of the spec, or module names; default: the proposed ones.
        overrides: Properties that replace the backbone's own, see `find_spec`.
        seed: Seed of random weights, see `load_network`.

    Raises:
        InputError: For an unknown name, weights that do not match the network, or layers that do not exist.
    """
    spec = backbone if isinstance(backbone, BackboneSpec) else find_spec(backbone, overrides)
    spec, module, name = load_network(spec, weights, seed)
    return FrozenClassifier.proposing(spec, module, layers, name)


def load_network(
    spec: BackboneSpec, weights: str | Path | None = None, seed: int | None = None
) -> tuple[BackboneSpec, nn.Module, str]:
    """Build a network and load its weights.

    Args:
        spec: Specification of the classifier.
        weights: Weights, see `load_backbone`.
        seed: Seed of random weights, and of all that the builder draws; default: it draws from the global generator.

    Returns:
        The spec with the preprocessing of these weights, the network in eval mode, and the name of the weights.

    Raises:
        InputError: For weights that cannot be read or do not match the network.
    """
    with nullcontext() if seed is None else random_state(seed):
        module = spec.build().eval()
    name = str(weights) if weights else next(iter(spec.weights), "random")
    if name in spec.weights:
        if (state := spec.weights[name]()) is not None:
            load_weights(module, matching_weights(module, state, name), name)
        spec = replace(spec, preprocessing=spec.weights_preprocessing.get(name, spec.preprocessing))
    elif name != "random":
        load_weights(module, matching_weights(module, _read_weights(Path(name), spec), name), name)
    return spec, with_output(spec, module), name


def _read_weights(path: Path, spec: BackboneSpec) -> Mapping[str, Any]:
    """Read a weights file without executing code, see `tame.backbones.state_dicts`."""
    if not path.is_file():
        known = ", ".join([*spec.weights, "random"])
        raise InputError(f"no weights {str(path)!r} for {spec.name}: expected a file or one of {known}")
    return read_weights_file(path)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``module``; all keys must match.

    Args:
        module: The network.
        state: Its parameters and buffers by name.
        source: Name of the weights, for error messages.

    Raises:
        InputError: If keys, shapes or kinds of numbers do not match, or values are NaN or infinite, naming the first.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in state and not _is_counter(key)]
    problems += [f"unexpected {key}" for key in state if key not in own]
    together = {key: value for key, value in state.items() if key in own and not _is_counter(key)}
    problems += [f"{key} {found}" for key, value in together.items() if (found := _mismatch(own[key], value))]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"the weights {source} do not match {type(module).__name__}: {'; '.join(problems[:3])}{more}")
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    broken = [
        key
        for key, value in together.items()
        if not _finite(value.to(own[key].dtype)) and (key in parameters or _finite(own[key]))
    ]
    if broken:
        raise InputError(
            f"expected finite numbers in the weights {source}, got NaN or infinite ones in {len(broken)} of "
            f"{len(state)} tensors, such as {broken[0]}: they were damaged, or their training failed"
        )
    module.load_state_dict(state, strict=False)


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")  # of batch norm in training; without effect on a frozen network


def _mismatch(own: Tensor, value: Tensor) -> str:
    """Return why a tensor cannot replace a network's own, empty if it can."""
    if value.shape != own.shape:
        return f"is {tuple(value.shape)}, expected {tuple(own.shape)}"
    if (value.is_floating_point(), value.is_complex()) != (own.is_floating_point(), own.is_complex()):
        return f"is of {value.dtype}, expected {own.dtype}"
    if value.layout != own.layout or value.is_meta or value.is_quantized:
        return "is no plain tensor"
    return ""


def _finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite; masks of a network may be, and then its own tensor is as well."""
    return bool(values.isfinite().all())
