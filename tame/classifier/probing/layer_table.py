"""List the layers of a classifier, and which of them can be feature layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tame.classifier.extractor import build_extractor, first_difference, hooked_outputs_and_result
from tame.classifier.layout import channels_first
from tame.classifier.outputs import with_output
from tame.classifier.probing.proposal import propose_from
from tame.classifier.probing.recorder import random_images, reaches_score, recorded_pass
from tame.classifier.spec import BackboneSpec
from tame.utils.checks import InputError

if TYPE_CHECKING:
    import pandas as pd

_IDLE = (nn.Identity.__name__, nn.Dropout.__name__)
"""Class names of modules that return their input unchanged in eval mode."""


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a classifier: one call of a module.

    Attributes:
        name: As in ``named_modules()``, with the number of the call for modules called several times (``pool#1``).
        kind: Class name of the module.
        shape: Shape of its output for one image, without the batch axis; None if the output is no tensor.
        reaches: Whether most positions of the map or token sequence have a gradient of the logits.
        possible: Whether it can be a feature layer.
        proposed: Whether it is one of the proposed feature layers.
        cam: Whether it is the target layer of the CAM methods.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    reaches: bool
    possible: bool
    proposed: bool
    cam: bool


@dataclass(frozen=True)
class LayerTable:
    """The layers of a classifier, as observed in one forward pass.

    Attributes:
        spec: Specification of the classifier.
        layers: Layers in the order in which their calls end.
        traced: Whether the proposed layers are read from a graph traced by `torch.fx`, otherwise with forward hooks.
        refusal: Reason why no layers are proposed; empty if some are.
        show_all: Print all layers; otherwise those that return maps or tokens, change their input, and are nested no
            deeper than the proposed ones.
    """

    spec: BackboneSpec
    layers: list[LayerInfo]
    traced: bool
    refusal: str = ""
    show_all: bool = False

    @property
    def proposed(self) -> tuple[str, ...]:
        """Names of the proposed layers, earliest first."""
        return tuple(layer.name for layer in self.layers if layer.proposed)

    def frame(self) -> pd.DataFrame:
        """Return a DataFrame with one row per layer: type, output, reaches_logits, possible, proposed, cam."""
        import pandas as pd

        rows = [vars(layer) for layer in self.layers]
        columns = {"kind": "type", "shape": "output", "reaches": "reaches_logits"}
        return pd.DataFrame(rows).rename(columns=columns).set_index("name")

    def __str__(self) -> str:
        """Return a table of the layers, with the proposed feature layers below it."""
        spec = self.spec
        head = [
            f"{spec.name}: {spec.num_classes} classes, input {' x '.join(map(str, spec.preprocessing.shape))}, "
            f"layers are read {'from the traced graph' if self.traced else 'with forward hooks'}"
        ]
        if tokens := spec.tokens:
            rows, columns = tokens.grid
            head.append(f"tokens: {tokens.prefix} prefix, then a grid of {rows} x {columns} patches")
        shown = [layer for layer in self.layers if self.show_all or self._is_shown(layer)]
        hidden = len(self.layers) - len(shown)
        more = f"{hidden} more layers (nested deeper, or without maps or tokens) are listed with the option all"
        foot = [more] if hidden else []
        foot.append(f"proposed feature layers: {','.join(self.proposed)}" if self.proposed else self.refusal)
        return "\n".join([*head, "", *_table(shown), "", *foot])

    def _is_shown(self, layer: LayerInfo) -> bool:
        depth = max((name.count(".") for name in self.proposed), default=len(layer.name))
        deep = layer.name.count(".") > depth
        return layer.proposed or layer.cam or (_has_positions(layer.shape) and not deep and layer.kind not in _IDLE)


def layer_table(spec: BackboneSpec, module: nn.Module, show_all: bool = False) -> LayerTable:
    """List the layers of a classifier, observed while it classifies one random image.

    Args:
        spec: Specification of the classifier.
        module: The classifier, in eval mode.
        show_all: Print all layers, see `LayerTable`.

    Raises:
        InputError: If the classifier rejects its input, or its logits contradict the spec.

    Example:
        >>> from tame.classifier.spec import Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(8, 8), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> [(layer.name, layer.shape) for layer in layer_table(spec, net.eval()).layers if layer.possible]
        [('0', (4, 6, 6)), ('1', (4, 6, 6))]
    """
    module = with_output(spec, module)
    with recorded_pass(spec, module) as recorded:
        with_gradient = [call for call in recorded.calls if _needs_gradient(call.output)]
        if not recorded.score.requires_grad:
            with_gradient = []
        hits = reaches_score(recorded.score, [call.output for call in with_gradient], spec)
        try:
            proposed, refusal = propose_from(module, recorded, spec), ""
        except InputError as error:
            proposed, refusal = (), str(error)
    reaching = {call.name for call, hit in zip(with_gradient, hits, strict=True) if hit}
    last = {call.path: call.name for call in recorded.calls}  # a plain name means the last call
    cam = last.get(spec.cam_layer or "", spec.cam_layer) or (proposed[-1] if proposed else None)
    layers = [
        LayerInfo(
            name=call.name,
            kind=type(call.module).__name__,
            shape=tuple(call.output.shape[1:]) if isinstance(call.output, Tensor) else None,
            reaches=call.name in reaching,
            possible=call.name in reaching and _gives_map(call.output, spec),
            proposed=call.name in proposed,
            cam=call.name == cam,
        )
        for call in recorded.calls
    ]
    return LayerTable(spec, layers, _is_traced(spec, module, proposed), refusal, show_all)


def _needs_gradient(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad and output.ndim in (3, 4)


def _gives_map(output: Tensor, spec: BackboneSpec) -> bool:
    """Whether an output for one image is a map of more than one position, or a token sequence of the known layout."""
    if len(output) != 1:
        return False
    if output.ndim == 4:
        return channels_first(output, spec.preprocessing.size).shape[2:].numel() > 1
    tokens = spec.tokens
    return tokens is not None and output.shape[1] == tokens.prefix + tokens.grid[0] * tokens.grid[1]


def _has_positions(shape: tuple[int, ...] | None) -> bool:
    return shape is not None and len(shape) in (2, 3) and sum(side > 1 for side in shape) > 1


def _is_traced(spec: BackboneSpec, module: nn.Module, layers: tuple[str, ...]) -> bool:
    """Whether the layers can be read from a traced graph, with the network's own values."""
    images = random_images(module, spec.preprocessing.shape)
    extractor = build_extractor(module, layers)
    with torch.no_grad():
        return isinstance(extractor, torch.fx.GraphModule) and not first_difference(
            extractor, images, *hooked_outputs_and_result(module, layers, images)
        )


def _table(layers: list[LayerInfo]) -> list[str]:
    """Return the lines of a table with aligned columns."""
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
