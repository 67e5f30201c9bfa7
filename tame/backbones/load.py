"""Build a frozen classifier from a name: spec, weights, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tame.backbones.efficientnet_lite import EFFICIENTNET_LITE0
from tame.backbones.frozen import FrozenClassifier
from tame.backbones.inspect import propose_layers
from tame.backbones.spec import BackboneSpec
from tame.backbones.torchvision import torchvision_names, torchvision_spec
from tame.checks import InputError
from tame.registry import Registry

BACKBONES = Registry[BackboneSpec]("backbone")
BACKBONES.register(EFFICIENTNET_LITE0.name)(EFFICIENTNET_LITE0)
for _name in torchvision_names():
    BACKBONES.register(_name)(torchvision_spec(_name))


def load_backbone(
    backbone: str | BackboneSpec, weights: str = "", layers: str | Sequence[str] = "proposed"
) -> FrozenClassifier:
    """Build a frozen classifier.

    Args:
        backbone: A registered name, or a spec of one's own.
        weights: Name of published weights, path of a state_dict (``.pth``, ``.pt``, ``.safetensors``; loaded
            without executing code), or ``random``. Empty: the first published ones.
        layers: Name of a tap set of the spec, or module names. An unlisted ``proposed`` is worked out.

    Raises:
        InputError: For an unknown name, weights that do not fit, or layers that do not exist.
    """
    spec = BACKBONES.get(backbone) if isinstance(backbone, str) else backbone
    module = spec.build().eval()
    weights = weights or next(iter(spec.weights), "random")
    if weights in spec.weights:
        load_weights(module, spec.weights[weights](), weights)
        spec = replace(spec, preprocessing=spec.weights_preprocessing.get(weights, spec.preprocessing))
    elif weights != "random":
        load_weights(module, read_state_dict(Path(weights), spec), weights)
    return FrozenClassifier(spec, module, resolve_layers(spec, module, layers), weights)


def resolve_layers(spec: BackboneSpec, module: nn.Module, layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return module names for a tap set's name, comma-separated names, or names as they are."""
    if isinstance(layers, str):
        if layers in spec.layers:
            return spec.layers[layers]
        if layers in ("proposed", "paper", "released"):
            return propose_layers(spec, module)
        layers = [layer.strip() for layer in layers.split(",") if layer.strip()]
    return tuple(layers)


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
