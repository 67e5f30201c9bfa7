"""What is explained: specs of classifiers, and the frozen classifier itself."""

from tame.backbones.frozen import FrozenClassifier
from tame.backbones.given import Given
from tame.backbones.load import BACKBONES, find_spec, load_backbone
from tame.backbones.spec import BackboneSpec, Preprocessing, TokenLayout

Backbone = FrozenClassifier
"""The name for users: ``tame.Backbone.from_module(module, ...)``."""

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "FrozenClassifier",
    "Given",
    "Preprocessing",
    "TokenLayout",
    "find_spec",
    "load_backbone",
]
