"""T-TAME: trainable attention mechanisms that explain frozen image classifiers in one forward pass.

Importing this package is free: every public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Backbone": "tame.backbones",
    "BackboneSpec": "tame.backbones",
    "Explanation": "tame.explanation",
    "FrozenClassifier": "tame.backbones",
    "Preprocessing": "tame.backbones",
    "TAME": "tame.attention",
    "TokenLayout": "tame.backbones",
    "evaluate": "tame.evaluation",
    "explain": "tame.explanation",
    "load_attention": "tame.checkpoint",
    "load_backbone": "tame.backbones",
    "save_attention": "tame.checkpoint",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are the table above

if TYPE_CHECKING:  # the same table for type checkers
    from tame.attention import TAME as TAME
    from tame.backbones import Backbone as Backbone
    from tame.backbones import BackboneSpec as BackboneSpec
    from tame.backbones import FrozenClassifier as FrozenClassifier
    from tame.backbones import Preprocessing as Preprocessing
    from tame.backbones import TokenLayout as TokenLayout
    from tame.backbones import load_backbone as load_backbone
    from tame.checkpoint import load_attention as load_attention
    from tame.checkpoint import save_attention as save_attention
    from tame.evaluation import evaluate as evaluate
    from tame.explanation import Explanation as Explanation
    from tame.explanation import explain as explain


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tame' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
