"""T-TAME: trainable attention mechanisms that explain frozen image classifiers in one forward pass.

Importing this package is free: every public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BackboneSpec": "tame.classifier",
    "Explanation": "tame.inference",
    "FrozenClassifier": "tame.classifier",
    "Preprocessing": "tame.classifier",
    "TAME": "tame.attention",
    "TokenLayout": "tame.classifier",
    "evaluate": "tame.evaluation.evaluate",
    "explain": "tame.inference",
    "load_attention": "tame.checkpoints.native",
    "load_backbone": "tame.backbones",
    "save_attention": "tame.checkpoints.native",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are the table above

if TYPE_CHECKING:  # the same table for type checkers
    from tame.attention import TAME as TAME
    from tame.backbones import load_backbone as load_backbone
    from tame.checkpoints.native import load_attention as load_attention
    from tame.checkpoints.native import save_attention as save_attention
    from tame.classifier import BackboneSpec as BackboneSpec
    from tame.classifier import FrozenClassifier as FrozenClassifier
    from tame.classifier import Preprocessing as Preprocessing
    from tame.classifier import TokenLayout as TokenLayout
    from tame.evaluation.evaluate import evaluate as evaluate
    from tame.inference import Explanation as Explanation
    from tame.inference import explain as explain


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tame' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
