"""The course of a training run: its loss, and AD and IC of its explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tame.utils.io import replacing
from tame.visualize.curves import dress, styles


def training_curves(
    losses: Sequence[float], validations: Mapping[int, Mapping[str, float]], steps: int, path: str | Path
) -> Path:
    """Plot the loss of each optimiser step, and what was validated before training and after each epoch.

    Args:
        losses: Training loss of each step.
        validations: Validation metrics by the number of epochs that were trained, 0 for the initialisation:
            ``val/total``, and ``val/rank/AD_50``, ``val/minmax/IC_15`` and so on in per cent.
        steps: Optimiser steps of an epoch.
        path: PNG file; missing folders are created.

    Returns:
        The file.

    Example:
        >>> from tempfile import mkdtemp
        >>> measured = {0: {"val/total": 2.0, "val/rank/AD_50": 60.0}, 1: {"val/total": 1.5, "val/rank/AD_50": 40.0}}
        >>> training_curves([2.1, 1.7, 1.6], measured, 3, f"{mkdtemp()}/training.png").name
        'training.png'
    """
    from matplotlib.figure import Figure

    page = Figure(figsize=(12, 3.8), layout="constrained", facecolor="white")
    loss, drop, increase = page.subplots(1, 3)
    x, epochs = np.arange(1, len(losses) + 1) / steps, sorted(validations)
    loss.plot(x, losses, color="#BBBBBB", linewidth=0.7, label="training, batches")
    loss.plot(
        x, _running_means(losses, max(5, len(losses) // 50)), color="#222222", linewidth=1.4, label="training, mean"
    )
    for axes, kind in ((loss, ""), (drop, "AD_"), (increase, "IC_")):
        names = _names(validations, kind) if kind else ["val/total"]
        for name, style in zip(names, styles(), strict=False):
            values = [validations[epoch].get(name, float("nan")) for epoch in epochs]
            axes.plot(epochs, values, label=_label(name) if kind else "validation", **style)
    dress(loss, "Loss", "loss")
    dress(drop, "Average Drop: lower is better", "AD (%)")
    dress(increase, "Increase in Confidence: higher is better", "IC (%)")
    for axes in (loss, drop, increase):
        axes.set_xlabel("epochs", fontsize=9.5)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    with replacing(path) as temporary:
        page.savefig(temporary, format="png", dpi=120)
    return Path(path)


def _running_means(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Return the mean of each value and those before it, at most ``window``."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means


def _names(validations: Mapping[int, Mapping[str, float]], kind: str) -> list[str]:
    """Return the names of the metrics of a kind, in the order in which they were measured."""
    names = dict.fromkeys(name for measured in validations.values() for name in measured)
    return [name for name in names if name.split("/")[-1].startswith(kind)]


def _label(name: str) -> str:
    """Return ``AD 50 % (rank)`` for ``val/rank/AD_50``."""
    _, scaling, measure = name.split("/")
    return f"{measure.replace('_', ' ')} % ({scaling})"
