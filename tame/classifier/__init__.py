"""The frozen classifier: its specification, logits, features, gradients and layers."""

from tame.classifier.frozen import FrozenClassifier
from tame.classifier.spec import BackboneSpec, Preprocessing, TokenLayout

__all__ = ["BackboneSpec", "FrozenClassifier", "Preprocessing", "TokenLayout"]
