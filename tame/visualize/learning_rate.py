"""The curve of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tame.utils.io import replacing

_INK, _GRID, _RAW, _SMOOTH, _MARK = "#222222", "#DDDDDD", "#BBBBBB", "#0072B2", "#D55E00"


def learning_rate_curve(
    lrs: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None, path: str | Path
) -> Path:
    """Plot the loss against the learning rate on a logarithmic axis, with the suggested rate marked.

    Args:
        lrs: Learning rate of each step, increasing.
        losses: Loss of each step.
        smoothed: The smoothed losses. They set the limits of the vertical axis; a loss that diverges at high rates is
            cut off.
        suggestion: One of ``lrs``. None: no rate is marked, and the title says why.
        path: PNG file; missing folders are created.

    Returns:
        The file.

    Example:
        >>> from tempfile import mkdtemp
        >>> learning_rate_curve([0.01, 0.1, 1], [3, 2, 4], [3, 2.5, 4], 0.1, f"{mkdtemp()}/lr.png").name
        'lr.png'
    """
    from matplotlib.figure import Figure

    page = Figure(figsize=(7, 4.2), layout="constrained", facecolor="white")
    axes = page.subplots()
    axes.plot(lrs, losses, color=_RAW, linewidth=0.8, label="batches")
    axes.plot(lrs, smoothed, color=_SMOOTH, linewidth=2, label="smoothed")
    if suggestion is not None:
        height = smoothed[lrs.index(suggestion)]
        axes.plot([suggestion], [height], "o", color=_MARK, markersize=8, label=f"suggestion {suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(*_height(smoothed))
    axes.set_title("" if suggestion is not None else "no suggestion: the loss does not decrease clearly", color=_INK)
    axes.set_xlabel("learning rate", color=_INK)
    axes.set_ylabel("training loss", color=_INK)
    axes.grid(color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        page.savefig(temporary, format="png", dpi=150)
    return Path(path)


def _height(smoothed: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the vertical axis: the whole curve, or twice its decrease if the loss diverges later."""
    low, high = min(smoothed), max(smoothed)
    decrease = max(smoothed[: smoothed.index(low) + 1]) - low
    if decrease > 0:
        high = min(high, low + 2 * decrease)
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin
