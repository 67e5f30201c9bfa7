"""Standard errors and paired-bootstrap intervals."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from tame.functional import bootstrap
from tame.functional.bootstrap import bootstrap_means, paired_bootstrap, standard_error
from tame.utils.checks import InputError


def values(seed: int, count: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).random(count) * 100


def test_standard_error_literal_twin() -> None:
    given = values(0).tolist()
    assert standard_error(given) == pytest.approx(statistics.stdev(given) / math.sqrt(len(given)))


def test_standard_error_of_a_half_at_2000_images() -> None:
    """METHOD.md: an IC near 50 % on 2,000 images has a standard error of 1.1 points."""
    assert standard_error([0.0, 100.0] * 1000) == pytest.approx(1.118, abs=1e-3)


@pytest.mark.parametrize("given", [[], [3.0]])
def test_standard_error_of_too_few_is_nan(given: list[float]) -> None:
    assert math.isnan(standard_error(given))


def test_literal_twin() -> None:
    a, b = values(1, 30), values(2, 30)
    found = paired_bootstrap(a, b, seed=5, samples=500)
    generator = np.random.default_rng(5)
    means = []
    for _ in range(500):
        drawn = [int(position) for position in generator.integers(30, size=30)]
        means.append(sum(a[position] - b[position] for position in drawn) / 30)
    assert found.difference == pytest.approx(sum(a - b) / 30)
    assert (found.low, found.high) == pytest.approx((np.quantile(means, 0.025), np.quantile(means, 0.975)))


def test_close_to_the_normal_interval() -> None:
    a, b = values(1, 2000), values(2, 2000)
    difference, low, high = paired_bootstrap(a, b)
    half = 1.96 * standard_error(a - b)
    assert (low, high) == pytest.approx((difference - half, difference + half), abs=0.1)


def test_pairing_matters() -> None:
    """A constant difference has an exact interval despite noise of 100 points, since the images are paired."""
    a = values(1)
    assert paired_bootstrap(a + 0.5, a) == pytest.approx((0.5, 0.5, 0.5))


def test_exchanged_methods() -> None:
    a, b = values(1), values(2)
    one, other = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))


def test_no_difference_is_exactly_zero() -> None:
    assert paired_bootstrap(values(1), values(1)) == (0.0, 0.0, 0.0)


def test_reproducible_and_seeded() -> None:
    a, b = values(1), values(2)
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_level() -> None:
    a, b = values(1), values(2)
    wide, narrow = paired_bootstrap(a, b, level=0.99), paired_bootstrap(a, b, level=0.5)
    assert wide.low < narrow.low < narrow.difference < narrow.high < wide.high


def test_memory_is_bounded_without_changing_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = values(1), values(2)
    expected = paired_bootstrap(a, b, samples=999)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 7 * 200)
    assert paired_bootstrap(a, b, samples=999) == pytest.approx(expected, abs=1e-10)


def test_columns_on_their_own() -> None:
    both = np.stack([values(1) - values(2), values(3) - values(4)], axis=1)
    found = bootstrap_means(both, seed=1)
    assert found[0] == pytest.approx(paired_bootstrap(values(1), values(2), seed=1))
    assert found[1] == pytest.approx(paired_bootstrap(values(3), values(4), seed=1))


def test_errors() -> None:
    with pytest.raises(InputError, match=r"values of the same images, \(n,\) and \(n,\), got \(2,\) and \(3,\)"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="expected at least 2 images for a bootstrap interval, got 1"):
        paired_bootstrap([1.0], [2.0])
    with pytest.raises(InputError, match=r"a level in \(0, 1\), got 10000 and 95"):
        paired_bootstrap([1.0, 2.0], [2.0, 1.0], level=95)
    with pytest.raises(InputError, match="samples of at least 1"):
        paired_bootstrap([1.0, 2.0], [2.0, 1.0], samples=0)
