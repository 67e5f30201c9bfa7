"""Metrics of explanations: they receive confidences, never a network."""

from tame.metrics.causal import DeletionAUC, InsertionAUC
from tame.metrics.confidence import AverageDrop, AverageGain, IncreaseInConfidence
from tame.metrics.road import ROAD

__all__ = ["ROAD", "AverageDrop", "AverageGain", "DeletionAUC", "IncreaseInConfidence", "InsertionAUC"]
