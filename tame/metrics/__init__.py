"""Metrics of explanations: each is one object that evaluations, tables and callbacks read; none calls a network."""

from tame.metrics.ad_ic import AverageDrop, AverageGain, IncreaseInConfidence, MaskedConfidence
from tame.metrics.base import Measure, Metric
from tame.metrics.insertion_deletion import Deletion, DeletionAUC, Insertion, InsertionAUC
from tame.metrics.mean import MeanOfImages, MeasureMean
from tame.metrics.registry import METRICS, build_metrics, measures_of, perturbations_of, settings_of
from tame.metrics.road import ROAD, ImputedConfidence

__all__ = [
    "METRICS",
    "ROAD",
    "AverageDrop",
    "AverageGain",
    "Deletion",
    "DeletionAUC",
    "ImputedConfidence",
    "IncreaseInConfidence",
    "Insertion",
    "InsertionAUC",
    "MaskedConfidence",
    "MeanOfImages",
    "Measure",
    "MeasureMean",
    "Metric",
    "build_metrics",
    "measures_of",
    "perturbations_of",
    "settings_of",
]
