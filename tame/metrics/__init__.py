"""Metrics of explanations: they receive confidences, never a network."""

from tame.metrics.confidence import AverageDrop, IncreaseInConfidence

__all__ = ["AverageDrop", "IncreaseInConfidence"]
