"""What is measured: perturbations, settings for summaries, refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tame.evaluation.plan import KEEPS, METRICS, Plan
from tame.perturbations import CausalInputs, ImputedInputs, MaskedInputs
from tame.utils.checks import InputError

AD_IC = {"scalings", "keeps", "masking", "ic_margin"}
ROAD = {"removes", "road_selection", "road_space", "road_reading", "noise", "seed"}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (("ad-ic",), AD_IC),
        (("road",), ROAD),
        (("insertion",), {"steps"}),
        (("deletion", "ad-ic"), AD_IC | {"steps"}),
        (METRICS, AD_IC | ROAD | {"steps"}),
    ],
)
def test_settings_hold_only_what_is_measured(metrics: Any, expected: set[str]) -> None:
    settings = Plan(metrics).settings()
    assert set(settings) == expected | {"metrics"}
    assert settings["metrics"] == list(metrics)
    assert json.loads(json.dumps(settings)) == settings


def test_perturbations_of_each_metric() -> None:
    (masked,) = Plan(scalings=("rank",), masking="vit").perturbations()
    assert isinstance(masked, MaskedInputs)
    assert (masked.names, masked.masking) == (("rank_100", "rank_50", "rank_15"), "vit")
    plan = Plan(("road",), removes=(0.1, 0.9), road_selection="percentile", road_space="network", noise=0.5, seed=3)
    (imputed,) = plan.perturbations()
    assert isinstance(imputed, ImputedInputs)
    assert imputed.names == ("morf_10", "morf_90", "lerf_10", "lerf_90")
    assert (imputed.selection, imputed.space, imputed.noise, imputed.seed) == ("percentile", "network", 0.5, 3)
    (causal,) = Plan(("deletion", "insertion"), steps=1).perturbations()
    assert isinstance(causal, CausalInputs)
    assert causal.names == ("insertion_0", "insertion_1", "deletion_0", "deletion_1")
    assert [type(each) for each in Plan(METRICS).perturbations()] == [MaskedInputs, ImputedInputs, CausalInputs]


def test_what_is_measured_unless_asked_otherwise() -> None:
    plan = Plan()
    assert plan.metrics == ("ad-ic",) and plan.keeps == KEEPS == (1.0, 0.5, 0.15)
    assert plan.removes == (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    assert (plan.noise, plan.steps, plan.ic_margin) == (0.01, 28, 1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ()}, "expected metrics among ad-ic, road, insertion, deletion, each once, got none"),
        ({"metrics": ("road", "roda")}, "each once, got road, roda"),
        ({"metrics": ("road", "road")}, "each once, got road, road"),
        ({"scalings": ("rank", "rank")}, "expected different scalings and keeps, got .*rank.*rank"),
        ({"scalings": ()}, r"expected different scalings and keeps, got \[\]"),
        ({"keeps": (50,)}, r"expected keep, a fraction of the pixels, in \(0, 1\], got 50"),
        ({"ic_margin": -1e-5}, "expected an ic_margin of 0 or more, got -1e-05"),
        ({"ic_margin": math.nan}, "expected an ic_margin of 0 or more, got nan"),
        ({"metrics": ("road",), "removes": (0.0,)}, r"expected remove, .*, in \(0, 1\], got 0.0"),
        ({"metrics": ("road",), "removes": (0.1, 0.1)}, "expected different fractions of pixels to remove"),
        ({"metrics": ("road",), "noise": -1}, "expected noise of 0 or more, got -1"),
        ({"metrics": ("deletion",), "steps": 0}, r"expected insertion or deletion in at least one step, .* in 0"),
    ],
)
def test_what_cannot_be_measured(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**changes)
