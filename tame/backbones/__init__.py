"""What is explained: specs of classifiers, and the frozen classifier itself."""

from tame.backbones.frozen import FrozenClassifier
from tame.backbones.load import BACKBONES, load_backbone
from tame.backbones.spec import BackboneSpec, Preprocessing, TokenLayout

__all__ = ["BACKBONES", "BackboneSpec", "FrozenClassifier", "Preprocessing", "TokenLayout", "load_backbone"]
