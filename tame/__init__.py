"""T-TAME: trainable attention mechanisms that explain frozen image classifiers in one forward pass.

Importing this package is free: every public name is loaded when it is first used.

Example:
    >>> import tame, tempfile, torch
    >>> from tame.inference import bundled_images
    >>> photo, *_ = bundled_images()
    >>> photos, runs = photo.parent, tempfile.mkdtemp()

    A classifier by name (``timm:NAME``, a spec file), or a trained network; any method for it, with its own arguments:

    >>> net = tame.FrozenClassifier.from_module(tame.load_classifier("resnet18", weights="random", device="cpu").module)
    >>> classifier = tame.load_classifier(device="cpu")  # EfficientNet-Lite0
    >>> explainer = tame.load_explainer(classifier)  # T-TAME: shipped, or checkpoint=...
    >>> rise = tame.build_explainer(classifier, "rise", masks=2)
    >>> explainer(torch.rand(2, 3, 224, 224), torch.tensor([281, 285])).shape
    torch.Size([2, 28, 28])

    One image:

    >>> explanation = tame.explain(photo, target="Egyptian cat")
    >>> explanation.method, explanation.map.shape
    ('ttame', (28, 28))

    Train an explainer, and evaluate several:

    >>> run = tame.train(classifier, data=photos, epochs=0, out=f"{runs}/mine")
    >>> table = tame.evaluate(
    ...     {"T-TAME": explainer, "RISE": rise}, data=photos, metrics=["ad-ic", "road"], out=f"{runs}/table"
    ... )
    >>> list(table.index), "rank/AD_50" in table, "road/morf_confidence" in table
    (['T-TAME', 'RISE'], True, True)
    >>> len(tame.read_run(f"{runs}/table/RISE"))  # a row per image
    2
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tame.utils.checks import escape_message
from tame.utils.versions import VERSION

__version__ = VERSION
logging.getLogger("tame").addFilter(escape_message)  # names of files may contain anything

_HOMES = {
    "BackboneSpec": "tame.classifier",
    "Explanation": "tame.inference",
    "FrozenClassifier": "tame.classifier",
    "Preprocessing": "tame.classifier",
    "TAME": "tame.attention",
    "TokenLayout": "tame.classifier",
    "build_explainer": "tame.explainers.build",
    "compare": "tame.reporting.compare",
    "convert_checkpoint": "tame.checkpoints.convert",
    "doctor": "tame.health.doctor",
    "evaluate": "tame.evaluation.evaluate",
    "explain": "tame.inference.explain",
    "explain_files": "tame.inference.explain_files",
    "inspect_classifier": "tame.backbones.inspect_classifier",
    "list_available": "tame.catalogue",
    "load_attention": "tame.checkpoints.native",
    "load_backbone": "tame.backbones",
    "load_classifier": "tame.checkpoints.classifier",
    "load_explainer": "tame.explainers.learned",
    "lr_find": "tame.training.lr_find",
    "read_run": "tame.evaluation.records",
    "save_attention": "tame.checkpoints.native",
    "table": "tame.reporting.table",
    "train": "tame.training.train",
}

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names are the table above

if TYPE_CHECKING:  # the same table for type checkers
    from tame.attention import TAME as TAME
    from tame.backbones import load_backbone as load_backbone
    from tame.backbones.inspect_classifier import inspect_classifier as inspect_classifier
    from tame.catalogue import list_available as list_available
    from tame.checkpoints.classifier import load_classifier as load_classifier
    from tame.checkpoints.convert import convert_checkpoint as convert_checkpoint
    from tame.checkpoints.native import load_attention as load_attention
    from tame.checkpoints.native import save_attention as save_attention
    from tame.classifier import BackboneSpec as BackboneSpec
    from tame.classifier import FrozenClassifier as FrozenClassifier
    from tame.classifier import Preprocessing as Preprocessing
    from tame.classifier import TokenLayout as TokenLayout
    from tame.evaluation.evaluate import evaluate as evaluate
    from tame.evaluation.records import read_run as read_run
    from tame.explainers.build import build_explainer as build_explainer
    from tame.explainers.learned import load_explainer as load_explainer
    from tame.health.doctor import doctor as doctor
    from tame.inference import Explanation as Explanation
    from tame.inference.explain import explain as explain
    from tame.inference.explain_files import explain_files as explain_files
    from tame.reporting.compare import compare as compare
    from tame.reporting.table import table as table
    from tame.training.lr_find import lr_find as lr_find
    from tame.training.train import train as train


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tame' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
