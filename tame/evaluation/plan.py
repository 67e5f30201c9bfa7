"""What an evaluation measures, as one value that makes the perturbations and stands in every summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tame.metrics.measures import CAUSAL
from tame.perturbations import CausalInputs, ImputedInputs, MaskedInputs, Perturbation
from tame.perturbations.causal import STEPS
from tame.perturbations.imputed import NOISE, REMOVES
from tame.types import MapScaling, MaskingKind, MetricName
from tame.utils.checks import InputError

METRICS: tuple[MetricName, ...] = ("ad-ic", "road", "insertion", "deletion")
KEEPS = (1.0, 0.5, 0.15)


@dataclass(frozen=True)
class Plan:
    """What is measured and how.

    Attributes:
        metrics: ``ad-ic``, ``road``, ``insertion``, ``deletion``.
        scalings: Readings of the maps for AD and IC.
        keeps: Fractions of the pixels that AD and IC keep, each in (0, 1].
        masking: Kind of masking for AD and IC.
        ic_margin: What counts as an increase in confidence.
        removes: Fractions of the pixels that ROAD removes, each in (0, 1].
        road_selection: See `tame.perturbations.ImputedInputs`.
        road_space: See there.
        road_reading: The one that the preset reports; both are always measured.
        noise: Of the imputation.
        steps: Of insertion and deletion.
        seed: Of the noise.

    Raises:
        InputError: For an unknown metric, or anything out of range.
    """

    metrics: tuple[MetricName, ...] = ("ad-ic",)
    scalings: tuple[MapScaling, ...] = ("minmax", "rank")
    keeps: tuple[float, ...] = KEEPS
    masking: MaskingKind = "cnn"
    ic_margin: float = 1e-5
    removes: tuple[float, ...] = REMOVES
    road_selection: Literal["exact", "percentile"] = "exact"
    road_space: Literal["image", "network"] = "image"
    road_reading: Literal["confidence", "kept"] = "confidence"
    noise: float = NOISE
    steps: int = STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check everything now."""
        if not self.metrics or not set(self.metrics) <= set(METRICS) or len(set(self.metrics)) < len(self.metrics):
            raise InputError(
                f"expected metrics among {', '.join(METRICS)}, each once, got {', '.join(self.metrics) or 'none'}"
            )
        if not 0 <= self.ic_margin < math.inf:
            raise InputError(f"expected an ic_margin of 0 or more, got {self.ic_margin}")
        self.perturbations()

    def perturbations(self) -> list[Perturbation]:
        """Return what has to be done to each image."""
        found: list[Perturbation] = []
        if "ad-ic" in self.metrics:
            found.append(MaskedInputs(self.scalings, self.keeps, self.masking))
        if "road" in self.metrics:
            found.append(ImputedInputs(self.removes, self.road_selection, self.road_space, self.noise, self.seed))
        if kinds := [kind for kind in CAUSAL if kind in self.metrics]:
            found.append(CausalInputs(kinds, self.steps))
        return found

    def settings(self) -> dict[str, Any]:
        """Return what the numbers depend on, for summaries: nothing of metrics that are not measured."""
        settings: dict[str, Any] = {"metrics": list(self.metrics)}
        if "ad-ic" in self.metrics:
            settings |= {
                "scalings": list(self.scalings),
                "keeps": list(self.keeps),
                "masking": self.masking,
                "ic_margin": self.ic_margin,
            }
        if "road" in self.metrics:
            settings |= {
                "removes": list(self.removes),
                "road_selection": self.road_selection,
                "road_space": self.road_space,
                "road_reading": self.road_reading,
                "noise": self.noise,
                "seed": self.seed,
            }
        if set(CAUSAL) & set(self.metrics):
            settings |= {"steps": self.steps}
        return settings
