"""The metrics by name, and what several of them need together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tame.metrics.ad_ic import MaskedConfidence
from tame.metrics.base import Measure, Metric
from tame.metrics.insertion_deletion import Deletion, Insertion
from tame.metrics.road import ImputedConfidence
from tame.perturbations import Perturbation
from tame.utils.checks import InputError
from tame.utils.registry import Registry


class _InOrder(Registry[type[Metric]]):
    """The metrics, named in the order of a run's columns and of tables."""

    def names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._entries)


METRICS = _InOrder("metric")
METRICS.register(MaskedConfidence.id)(MaskedConfidence)
METRICS.register(ImputedConfidence.id)(ImputedConfidence)
METRICS.register(Insertion.id)(Insertion)
METRICS.register(Deletion.id)(Deletion)


def build_metrics(names: Sequence[str], settings: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Build metrics from shared settings, each from those named like its fields.

    Args:
        names: Ids of the metrics, each once.
        settings: Values by name; defaults stand for those that are missing.

    Raises:
        InputError: For an unknown name, one that occurs twice, none at all, or a setting out of range.

    Example:
        >>> build_metrics(["deletion"], {"steps": 4, "seed": 1})
        (Deletion(steps=4),)
    """
    kinds = [METRICS.get(name) for name in names]
    if not kinds or len(set(names)) < len(kinds):
        known = ", ".join(METRICS.names())
        raise InputError(f"expected metrics among {known}, each once, got {', '.join(names) or 'none'}")
    return tuple(kind.of(settings) for kind in kinds)


def measures_of(settings: Mapping[str, Any]) -> list[Measure]:
    """Return the measures of a run in the order of tables.

    Args:
        settings: Settings of the run: ``metrics``, and the settings of these metrics.

    Raises:
        InputError: For a metric that is not registered.

    Example:
        >>> [measure.name for measure in measures_of({"metrics": ["deletion", "insertion"], "steps": 4})]
        ['insertion/AUC', 'deletion/AUC']
    """
    metrics = build_metrics(settings["metrics"], settings)
    return [measure for metric in _in_order(metrics) for measure in metric.measures()]


def perturbations_of(metrics: Iterable[Metric]) -> list[Perturbation]:
    """Return how images are perturbed for several metrics: what two of them share is computed once.

    Raises:
        InputError: For two different perturbations with the same names.
    """
    found: list[Perturbation] = []
    for metric in _in_order(metrics):
        one = metric.perturbation()
        if one in found:
            continue
        if both := {name for other in found for name in other.names} & set(one.names):
            raise InputError(f"the metric {metric.id} has another perturbation named {', '.join(sorted(both))}")
        found.append(one)
    return found


def settings_of(metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return the settings of metrics as JSON values, for summaries."""
    settings: dict[str, Any] = {"metrics": [metric.id for metric in metrics]}
    for metric in _in_order(metrics):
        settings |= metric.settings()
    return settings


def _in_order(metrics: Iterable[Metric]) -> list[Metric]:
    places = {name: place for place, name in enumerate(METRICS.names())}
    return sorted(metrics, key=lambda metric: places.get(metric.id, len(places)))
