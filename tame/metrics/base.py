"""The contract of every metric of explanations: the perturbed images that it needs and the numbers that it reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from tame.functional.bootstrap import FloatArray
from tame.perturbations import Perturbation

Columns = Mapping[str, Tensor]
"""Columns of a run, one value per image each (n,): ``p``, and those of `tame.perturbations.names`."""


@dataclass(frozen=True)
class Measure:
    """One number that a metric reports: the mean of its values over the images.

    Attributes:
        name: Its name in summaries, such as ``minmax/AD_50`` or ``road/morf_kept``.
        title: Its heading in tables.
        group: The scaling of the maps (``minmax``, ``rank``), or the metric, that tables group it by.
        higher_is_better: Whether higher values are better.
        in_table: Whether tables show it; the others are in summaries and curves only.
        score: Computes each image's value (n,) from the columns of a run, as a fraction where the unit is ``%``.
        unit: Unit of the reported value, ``%`` or empty.

    Example:
        >>> import numpy as np
        >>> measure = Measure("toy", "Toy", "toy", True, True, lambda columns: columns["p"])
        >>> measure.values({"p": np.array([0.5, 0.25])}).tolist()
        [50.0, 25.0]
    """

    name: str
    title: str
    group: str
    higher_is_better: bool
    in_table: bool
    score: Callable[[Columns], Tensor]
    unit: str = "%"

    @property
    def scale(self) -> float:
        """Factor from `score` to the reported value."""
        return 100.0 if self.unit == "%" else 1.0

    def values(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Return each image's value in the measure's unit, (n,), from the columns of a run."""
        tensors = {name: torch.from_numpy(column) for name, column in columns.items()}
        values: FloatArray = self.scale * self.score(tensors).double().numpy()
        return values


@dataclass(frozen=True)
class Metric(ABC):
    """A metric with its settings, which are the fields of the subclass under the keys that summaries use.

    Evaluations, tables, reports and Lightning callbacks read all that they need of a metric here.

    Attributes:
        id: Its name on the command line and in files.
        title: Its name in the field.
        summary: What it measures, in one line.
        paper: Where it was published.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check the settings: a perturbation refuses those that it cannot use."""
        self.perturbation()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Build the metric from settings that several metrics share; each takes those named like its fields."""
        names = [field.name for field in fields(cls) if field.name in settings]
        return cls(**{name: _as_tuple(settings[name]) for name in names})

    @abstractmethod
    def perturbation(self) -> Perturbation:
        """Return how images are perturbed for this metric."""

    @abstractmethod
    def measures(self) -> list[Measure]:
        """Return the numbers that it reports, in the order of tables."""

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON values, for summaries."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def must_agree(self) -> tuple[str, ...]:
        """Return the settings that runs must share to be comparable, beside those that name its measures."""
        return tuple(field.name for field in fields(self))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
