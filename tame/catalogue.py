"""Tables of the registered backbones, methods, metrics, presets and attention mechanisms."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, get_args

from tame.attention import ATTENTIONS
from tame.backbones import BACKBONES
from tame.classifier import BackboneSpec
from tame.explainers import EXPLAINERS
from tame.explainers.build import EXTERNAL
from tame.metrics import METRICS
from tame.presets import PRESETS
from tame.utils.checks import InputError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["backbones", "methods", "metrics", "presets", "attention"]
KINDS: tuple[Kind, ...] = get_args(Kind)

TIMM = "timm:"
"""Prefix of timm's classifiers."""

_PRESET_SUMMARIES = {
    "tame": "our own choices, measured to be best on small data; the default",
    "paper": "as described in the paper (T-TAME, IEEE Access 2024)",
    "released": "as in the authors' released program",
}
_PAPER = re.compile(r"`(?P<title>[^<`]+?)\s*<(?P<url>[^>]+)>`")

_ARTICLES = re.compile(r"^Constructs an? |,? (as described in|from)( the)?$| (model )?architecture\b| model\b")
"""What is no name of a classifier in the docstrings of torchvision."""

Row = dict[str, Any]


def list_available(kind: Kind, pattern: str | None = None) -> pd.DataFrame:
    """List backbones, methods, metrics, presets or attention mechanisms.

    Args:
        kind: What to list: backbones, methods, metrics, presets or attention.
        pattern: Pattern of names, such as ``res*``. It also finds timm's classifiers (``timm:resnet18``), and with a
            colon the methods of other libraries (``grad-cam:*``), where these packages are installed. Default: all of
            ours.

    Returns:
        A row each: its name, what it is, its cost, its paper, and what is particular to the kind, such as the arguments
        of methods and the numbers that presets set.

    Raises:
        InputError: For an unknown kind.

    Example:
        >>> list_available("methods", "grad*")[["name", "title", "arguments"]].values.tolist()
        [['gradcam', 'Grad-CAM', 'layer'], ['gradcam++', 'Grad-CAM++', 'layer']]
    """
    import pandas as pd

    listings: dict[str, Callable[[str | None], Iterator[Row]]] = {
        "backbones": _backbones,
        "methods": _methods,
        "metrics": _metrics,
        "presets": _presets,
        "attention": _attention,
    }
    if kind not in listings:
        raise InputError(f"cannot list {kind!r}; expected {', '.join(listings)}")
    rows = [row for row in listings[kind](pattern) if _matches(row["name"], pattern)]
    columns = list(rows[0]) if rows else ["name"]
    return pd.DataFrame(rows, columns=columns)


def _matches(name: str, pattern: str | None) -> bool:
    """Return whether a name, with or without the prefix of its library, fits a pattern."""
    if pattern is None:
        return True
    spellings = {name.lower(), name.lower().removeprefix(TIMM)}
    return any(fnmatchcase(spelling, pattern.lower()) for spelling in spellings)


def _backbones(pattern: str | None) -> Iterator[Row]:
    for name in BACKBONES:
        yield _backbone(name, BACKBONES.get(name))
    if pattern is not None:
        yield from _timm()


def _backbone(name: str, spec: BackboneSpec) -> Row:
    described = spec.description or _of_torchvision(name)
    return {
        "name": name,
        "summary": described.get("summary", "registered by its own code"),
        "input": " x ".join(map(str, spec.preprocessing.size)),
        "classes": spec.num_classes,
        "cost": described.get("cost", ""),
        "weights": ", ".join(spec.weights) or "random",
        "paper": described.get("paper", ""),
    }


def _of_torchvision(name: str) -> dict[str, str]:
    """Return what torchvision says of a classifier, in the first paragraph of its docstring and beside its weights."""
    from torchvision import models

    try:
        builder, weights = models.get_model_builder(name), list(models.get_model_weights(name))
    except ValueError:  # another library's, or registered by a user
        return {}
    text = " ".join((inspect.getdoc(builder) or "").partition("\n\n")[0].split())
    what = _ARTICLES.sub("", text.partition("`")[0].strip())
    described = {"summary": what.strip()}
    if found := _PAPER.search(text):
        identifier = found["url"].partition("arxiv.org/abs/")[2]
        described["paper"] = f"{found['title']}, " + (f"arXiv:{identifier}" if identifier else found["url"])
    if weights:
        known = weights[0].meta
        described["cost"] = f"{known['_ops']:.3g} G multiply-adds, {known['num_params'] / 1e6:.3g} M weights"
    return described


def _timm() -> Iterator[Row]:
    """Yield timm's classifiers, none where it is not installed."""
    try:
        import timm
    except ImportError:
        return
    for name in timm.list_models():
        config = timm.get_pretrained_cfg(name)
        known = config.to_dict() if config else {}
        yield {
            "name": f"{TIMM}{name}",
            "summary": f"{known.get('architecture', name)} of timm",
            "input": " x ".join(map(str, known.get("input_size", ())[1:])),
            "classes": known.get("num_classes") or "",
            "cost": "",
            "weights": "pretrained" if config and config.has_weights else "random",
            "paper": known.get("paper_ids") or "",
        }


def _methods(pattern: str | None) -> Iterator[Row]:
    for name in EXPLAINERS:
        method = EXPLAINERS.get(name)
        yield {
            "name": name,
            "title": method.title,
            "summary": method.summary,
            "cost": method.cost,
            "arguments": ", ".join(map(_argument, method.arguments.values())),
            "paper": method.paper or "",
        }
    if pattern is not None and ":" in pattern:
        yield from _external_methods()


def _external_methods() -> Iterator[Row]:
    """Yield the methods of other libraries, none of one that is not installed."""
    for library, module in EXTERNAL.items():
        try:
            names = import_module(module).methods()
        except InputError:
            continue
        for name in names:
            row = {"name": f"{library}:{name}", "title": name, "summary": f"method of the package {library}"}
            yield row | {"cost": "", "arguments": "", "paper": ""}


def _argument(parameter: inspect.Parameter) -> str:
    """Return an argument of a method with its default, where that is a number or a word."""
    default = parameter.default
    return f"{parameter.name}={default}" if isinstance(default, str | int | float) else parameter.name


def _metrics(_pattern: str | None) -> Iterator[Row]:
    for name in METRICS:
        metric = METRICS.get(name)
        yield {
            "name": name,
            "title": metric.title,
            "summary": metric.summary,
            "cost": f"{len(metric().perturbation().names)} forward",
            "paper": metric.paper or "",
            "measures": ", ".join(measure.name for measure in metric().measures() if measure.in_table),
        }


def _presets(_pattern: str | None) -> Iterator[Row]:
    for name in sorted(PRESETS, key=lambda name: (name != "tame", name)):
        preset = PRESETS.get(name)
        values = {field.name: getattr(preset, field.name) for field in fields(preset) if field.name != "name"}
        yield {"name": name, "summary": _PRESET_SUMMARIES.get(name, ""), **values}


def _attention(_pattern: str | None) -> Iterator[Row]:
    for name in ATTENTIONS:
        mechanism = ATTENTIONS.get(name)
        yield {"name": name, "summary": mechanism.summary, "cost": mechanism.cost, "paper": mechanism.paper or ""}
