"""One frozen classifier, and all that can be asked of it."""

from tame.classifier.frozen import FrozenClassifier
from tame.classifier.spec import BackboneSpec, Preprocessing, TokenLayout

__all__ = ["BackboneSpec", "FrozenClassifier", "Preprocessing", "TokenLayout"]
