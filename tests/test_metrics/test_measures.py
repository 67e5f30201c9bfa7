"""Every number of an evaluation, from columns with values that can be checked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tame.metrics import Measure, measures_of

AD_IC: dict[str, Any] = {"metrics": ["ad-ic"], "scalings": ["minmax", "rank"], "keeps": [1.0, 0.15], "ic_margin": 0.1}
ROAD: dict[str, Any] = {"metrics": ["road"], "removes": [0.1, 0.5, 0.9]}


def of(settings: dict[str, Any]) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures_of(settings)}


def values(name: str, settings: dict[str, Any], **columns: list[float]) -> list[float]:
    return of(settings)[name].values({name: np.array(column) for name, column in columns.items()}).tolist()


def test_names_and_headings_in_the_order_of_tables() -> None:
    shown = [(measure.name, measure.title) for measure in measures_of(AD_IC) if measure.in_table]
    assert shown == [
        ("minmax/AD_100", "AD 100 % (minmax)"),
        ("minmax/IC_100", "IC 100 % (minmax)"),
        ("minmax/AD_15", "AD 15 % (minmax)"),
        ("minmax/IC_15", "IC 15 % (minmax)"),
        ("rank/AD_100", "AD 100 % (rank)"),
        ("rank/IC_100", "IC 100 % (rank)"),
        ("rank/AD_15", "AD 15 % (rank)"),
        ("rank/IC_15", "IC 15 % (rank)"),
    ]
    shown = [(measure.name, measure.title) for measure in measures_of(ROAD) if measure.in_table]
    assert shown == [
        ("road/morf_confidence", "MoRF confidence"),
        ("road/morf_kept", "MoRF accuracy"),
        ("road/lerf_confidence", "LeRF confidence"),
        ("road/lerf_kept", "LeRF accuracy"),
    ]
    assert set(of(ROAD)) == {
        f"road/{order}_{reading}{part}"
        for order in ("morf", "lerf")
        for reading in ("confidence", "kept")
        for part in ("", "_10", "_50", "_90")
    }
    causal = measures_of({"metrics": ["deletion", "insertion"], "steps": 2})
    assert [(measure.name, measure.title, measure.group) for measure in causal] == [
        ("insertion/AUC", "Insertion", "insertion"),
        ("deletion/AUC", "Deletion", "deletion"),
    ]


def test_names_are_unique_and_nothing_else_is_measured() -> None:
    together = AD_IC | ROAD | {"metrics": ["road", "deletion", "ad-ic"], "steps": 28}
    found = measures_of(together)
    assert len({measure.name for measure in found}) == len(found) == 2 * 2 * 3 + 2 * 2 * 4 + 1
    assert {measure.group for measure in found} == {"minmax", "rank", "road", "deletion"}


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("minmax/AD_100", False),
        ("rank/IC_15", True),
        ("rank/AG_15", True),
        ("road/morf_confidence", False),
        ("road/morf_kept_50", False),
        ("road/lerf_kept", True),
        ("road/lerf_confidence_90", True),
        ("insertion/AUC", True),
        ("deletion/AUC", False),
    ],
)
def test_which_way_is_better(name: str, higher: bool) -> None:
    settings = AD_IC | ROAD | {"metrics": ["ad-ic", "road", "insertion", "deletion"], "steps": 2}
    assert of(settings)[name].higher_is_better is higher


def test_drop_increase_and_gain_by_hand() -> None:
    p, masked = [0.5, 0.4, 0.8, 0.5], [0.25, 0.5, 0.9, 0.625]
    columns = {"p": p, "rank_15_p": masked}
    assert values("rank/AD_15", AD_IC, **columns) == pytest.approx([50, 0, 0, 0])
    assert values("rank/IC_15", AD_IC | {"ic_margin": 0.11}, **columns) == [0, 0, 0, 100]
    assert values("rank/IC_15", AD_IC | {"ic_margin": 0.0}, **columns) == [0, 100, 100, 100]
    assert values("rank/AG_15", AD_IC, **columns) == pytest.approx([0, 100 / 6, 50, 25])


def test_no_confidence_and_full_confidence() -> None:
    """Nothing can be lost where p = 0, nothing gained where p = 1."""
    columns = {"p": [0.0, 0.0, 1.0, 1.0], "minmax_100_p": [0.0, 0.5, 1.0, 0.25]}
    assert values("minmax/AD_100", AD_IC, **columns) == [0, 0, 0, 75]
    assert values("minmax/IC_100", AD_IC, **columns) == [0, 100, 0, 0]
    assert values("minmax/AG_100", AD_IC, **columns) == [0, 50, 0, 0]


def test_road_is_the_mean_over_what_is_removed() -> None:
    columns = {
        "morf_10_p": [0.9, 0.3],
        "morf_50_p": [0.6, 0.3],
        "morf_90_p": [0.0, 0.0],
        "lerf_10_kept": [1.0, 1.0],
        "lerf_50_kept": [1.0, 0.0],
        "lerf_90_kept": [1.0, 0.0],
    }
    assert values("road/morf_confidence", ROAD, **columns) == pytest.approx([50, 20])
    assert values("road/morf_confidence_50", ROAD, **columns) == pytest.approx([60, 30])
    assert values("road/lerf_kept", ROAD, **columns) == pytest.approx([100, 100 / 3])
    assert values("road/lerf_kept_10", ROAD, **columns) == [100, 100]


def test_areas_are_trapezoids_with_both_ends() -> None:
    columns = {"insertion_0_p": [0.0, 0.2], "insertion_1_p": [0.5, 0.2], "insertion_2_p": [0.75, 1.0]}
    columns |= {"insertion_3_p": [1.0, 0.4], "deletion_0_p": [1.0, 0.5], "deletion_1_p": [0.0, 0.25]}
    settings = {"metrics": ["insertion"], "steps": 3}
    assert values("insertion/AUC", settings, **columns) == pytest.approx([100 * 1.75 / 3, 50])
    assert values("deletion/AUC", {"metrics": ["deletion"], "steps": 1}, **columns) == pytest.approx([50, 37.5])
