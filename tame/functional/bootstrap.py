"""Standard errors and bootstrap confidence intervals of means over images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tame.utils.checks import InputError

FloatArray = npt.NDArray[np.float64]

_DRAWS_AT_ONCE = 4_000_000  # 32 MB of positions


class Interval(NamedTuple):
    """A difference of means and its bootstrap confidence interval."""

    difference: float
    low: float
    high: float


def standard_error(values: npt.ArrayLike) -> float:
    """Standard error of the mean, ``sd / sqrt(n)``, with n - 1 in the standard deviation.

    Args:
        values: One value per image, (n,).

    Returns:
        The standard error; NaN for fewer than two values.

    Example:
        >>> round(standard_error([0, 100, 0, 100]), 3)
        28.868
    """
    array = np.asarray(values, dtype=np.float64)
    return float(array.std(ddof=1) / np.sqrt(len(array))) if len(array) > 1 else float("nan")


def paired_bootstrap(
    values_a: npt.ArrayLike, values_b: npt.ArrayLike, seed: int = 0, samples: int = 10_000, level: float = 0.95
) -> Interval:
    """Mean difference a - b over the same images, with its percentile-bootstrap confidence interval.

    Samples of n images are drawn with replacement, the same ones for both methods; the interval contains the central
    fraction ``level`` of the mean differences of the samples.

    Args:
        values_a: One value per image, (n,) with n > 1.
        values_b: The other method's values for the same images, (n,).
        seed: Seed of the samples.
        samples: Number of bootstrap samples.
        level: Confidence level of the interval, in (0, 1).

    Returns:
        ``(difference, low, high)``.

    Raises:
        InputError: For values of different length, fewer than two images, no samples, or a level out of range.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Example:
        >>> paired_bootstrap([3.0, 3.0, 3.0], [1.0, 1.0, 1.0])
        Interval(difference=2.0, low=2.0, high=2.0)
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"expected values of the same images, (n,) and (n,), got {a.shape} and {b.shape}")
    (interval,) = bootstrap_means((a - b)[:, None], seed, samples, level)
    return interval


def bootstrap_means(values: FloatArray, seed: int = 0, samples: int = 10_000, level: float = 0.95) -> list[Interval]:
    """Mean of each column with its percentile-bootstrap confidence interval; all columns use the same samples of rows.

    Args:
        values: One row per image, (n, m) with n > 1.
        seed: Seed of the samples.
        samples: Number of bootstrap samples.
        level: Confidence level of the intervals, in (0, 1).

    Returns:
        One interval per column.

    Raises:
        InputError: For fewer than two images, no samples, or a level out of range.
    """
    count = len(values)
    if count < 2:
        raise InputError(f"expected at least 2 images for a bootstrap interval, got {count}")
    if samples < 1 or not 0 < level < 1:
        raise InputError(f"expected samples of at least 1 and a level in (0, 1), got {samples} and {level}")
    generator = np.random.default_rng(seed)
    means = np.empty((samples, values.shape[1]))
    rows = max(1, _DRAWS_AT_ONCE // count)
    for start in range(0, samples, rows):
        part = means[start : start + rows]  # a view
        part[:] = _draw_counts(generator, len(part), count) @ values / count
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return [Interval(*map(float, column)) for column in zip(values.mean(0), low, high, strict=True)]


def _draw_counts(generator: np.random.Generator, draws: int, count: int) -> FloatArray:
    """Draw ``draws`` samples of ``count`` positions; return how often each position occurs, (draws, count)."""
    positions = generator.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
    return np.bincount(positions.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)
