"""What `tame inspect` shows: the layers of a classifier, and which of them can be feature layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tame.classifier.extractor import build_extractor, different, observe
from tame.classifier.layout import channels_first
from tame.classifier.outputs import with_output
from tame.classifier.probing.proposal import propose_from
from tame.classifier.probing.recorder import random_images, reached, watched
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError

_IDLE = (nn.Identity.__name__, nn.Dropout.__name__)
"""Classes of modules that give back what they were given."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a classifier, at its last call.

    Attributes:
        name: As in ``named_modules()``.
        kind: Class of the module.
        shape: Of its output for one image, as it is; None where that is no tensor.
        reaches: Whether most positions of a map or sequence have a gradient of the logits.
        possible: Whether it can be a feature layer.
        proposed: Whether it is one of the proposed feature layers.
        cam: Whether the CAM methods explain it.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    reaches: bool
    possible: bool
    proposed: bool
    cam: bool


@dataclass(frozen=True)
class Inspection:
    """What one pass through a classifier shows.

    Attributes:
        spec: Of the classifier.
        layers: In the order in which their last calls end.
        traced: Whether layers are read from a traced graph; else with hooks.
        refusal: Why no layers are proposed; empty where some are.
    """

    spec: BackboneSpec
    layers: list[LayerInfo]
    traced: bool
    refusal: str = ""

    @property
    def proposed(self) -> tuple[str, ...]:
        """Names of the proposed layers, earliest first."""
        return tuple(layer.name for layer in self.layers if layer.proposed)

    def text(self, everything: bool = False) -> str:
        """Return a table of the layers, and the proposal as an option to paste.

        Args:
            everything: Show all layers; else those that give maps or tokens, change what they are given, and have
                names no deeper than the proposed ones.
        """
        spec = self.spec
        head = [
            f"{spec.name}: {spec.num_classes} classes, input {' x '.join(map(str, spec.preprocessing.shape))}, "
            f"layers are read {'from the traced graph' if self.traced else 'with hooks'}"
        ]
        if tokens := spec.tokens:
            rows, columns = tokens.grid
            head.append(f"tokens: {tokens.prefix} before a grid of {rows} x {columns} patches")
        shown = [layer for layer in self.layers if everything or self._is_shown(layer)]
        hidden = len(self.layers) - len(shown)
        foot = [f"{hidden} more layers, inside these or without maps, are listed with --all"] if hidden else []
        foot.append(f"--layers {','.join(self.proposed)}" if self.proposed else self.refusal)
        return "\n".join([*head, "", *_table(shown), "", *foot])

    def _is_shown(self, layer: LayerInfo) -> bool:
        depth = max((name.count(".") for name in self.proposed), default=len(layer.name))
        deep = layer.name.count(".") > depth
        return layer.proposed or layer.cam or (_has_positions(layer.shape) and not deep and layer.kind not in _IDLE)


def inspect_layers(spec: BackboneSpec, module: nn.Module) -> Inspection:
    """Watch a classifier classify one random image.

    Args:
        spec: Describes its input, classes and tokens.
        module: The classifier, in eval mode.

    Raises:
        InputError: If it refuses its input, or gives other logits than the spec says.

    Example:
        >>> from tame.classifier.spec import Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> [(layer.name, layer.shape) for layer in inspect_layers(spec, net.eval()).layers if layer.possible]
        [('0', (4, 6, 6)), ('1', (4, 6, 6))]
    """
    module = with_output(spec, module)
    with watched(spec, module) as (calls, score):
        last = {call.name: call for call in calls}
        ends = {name: index for index, name in enumerate(call.name for call in calls)}
        outputs = {name: last[name].output for name in sorted(last, key=ends.__getitem__)}
        with_gradient = [name for name, output in outputs.items() if _needs_gradient(output)]
        hits = reached(score, [outputs[name] for name in with_gradient], spec)
        try:
            proposed, refusal = propose_from(module, calls, score, spec), ""
        except InputError as error:
            proposed, refusal = (), str(error)
    reaching = {name for name, hit in zip(with_gradient, hits, strict=True) if hit}
    cam = spec.cam_layer or (proposed[-1] if proposed else None)
    layers = [
        LayerInfo(
            name=name,
            kind=type(last[name].module).__name__,
            shape=tuple(output.shape[1:]) if isinstance(output, Tensor) else None,
            reaches=name in reaching,
            possible=name in reaching and _gives_map(output, spec),
            proposed=name in proposed,
            cam=name == cam,
        )
        for name, output in outputs.items()
    ]
    return Inspection(spec, layers, _is_traced(spec, module, proposed), refusal)


def _needs_gradient(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad and output.ndim in (3, 4)


def _gives_map(output: Tensor, spec: BackboneSpec) -> bool:
    """Whether an output for one image is a map of more than one position, or the tokens of one."""
    if len(output) != 1:
        return False
    if output.ndim == 4:
        return channels_first(output, spec.preprocessing.size).shape[2:].numel() > 1
    tokens = spec.tokens
    return tokens is not None and output.shape[1] == tokens.prefix + tokens.grid[0] * tokens.grid[1]


def _has_positions(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) in (2, 3) and sum(side > 1 for side in shape) > 1


def _is_traced(spec: BackboneSpec, module: nn.Module, layers: tuple[str, ...]) -> bool:
    """Whether the layers can be read from a traced graph."""
    images = random_images(module, spec.preprocessing.shape)
    extractor = build_extractor(module, layers)
    with torch.no_grad():
        return isinstance(extractor, torch.fx.GraphModule) and not different(
            extractor, images, *observe(module, layers, images)
        )


def _table(layers: list[LayerInfo]) -> list[str]:
    """Return lines of aligned columns."""
    rows = [("layer", "type", "output", "reaches logits", "feature layer")]
    for layer in layers:
        marks = ["proposed" if layer.proposed else "possible"] if layer.possible else []
        rows.append(
            (
                layer.name,
                layer.kind,
                "no tensor" if layer.shape is None else " x ".join(map(str, layer.shape)),
                "yes" if layer.reaches else "no" if _has_positions(layer.shape) else "",
                ", ".join([*marks, "CAM"] if layer.cam else marks),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
