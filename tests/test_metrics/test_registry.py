"""The metrics by name: their perturbations, settings for summaries, refusals, and what adding one takes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from small_runs import COUNT, Images, Module, run
from tame.callbacks.metrics import MetricCallback
from tame.classifier import FrozenClassifier
from tame.evaluation import open_run, read_run
from tame.functional.masking import scale_and_upsample
from tame.metrics import (
    METRICS,
    Deletion,
    ImputedConfidence,
    Insertion,
    MaskedConfidence,
    Measure,
    Metric,
    build_metrics,
    measures_of,
    perturbations_of,
    settings_of,
)
from tame.metrics.ad_ic import KEEPS
from tame.perturbations import CausalInputs, ImputedInputs, MaskedInputs, Perturbation
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]
NAMES = ("ad-ic", "road", "insertion", "deletion")
AD_IC = {"scalings", "keeps", "masking", "ic_margin"}
ROAD = {"removes", "road_selection", "road_space", "road_reading", "noise", "seed"}


def test_names_in_the_order_of_columns_and_tables() -> None:
    assert METRICS.names()[: len(NAMES)] == list(NAMES)
    for name in NAMES:
        metric = METRICS.get(name)
        assert metric.id == name and metric.title and metric.summary and metric.paper
        assert metric() == metric.of({}) == metric.of({"unknown": 3})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("ad-ic",), AD_IC),
        (("road",), ROAD),
        (("insertion",), {"steps"}),
        (("deletion", "ad-ic"), AD_IC | {"steps"}),
        (NAMES, AD_IC | ROAD | {"steps"}),
    ],
)
def test_settings_hold_only_what_is_measured(names: Any, expected: set[str]) -> None:
    metrics = build_metrics(names, {"steps": 5, "seed": 2, "keeps": [0.5], "removes": [0.3]})
    settings = settings_of(metrics)
    assert set(settings) == expected | {"metrics"}
    assert settings["metrics"] == list(names)
    assert json.loads(json.dumps(settings)) == settings
    assert build_metrics(names, settings) == metrics


def test_perturbations_of_each_metric() -> None:
    (masked,) = perturbations_of([MaskedConfidence(("rank",), masking="vit")])
    assert isinstance(masked, MaskedInputs)
    assert (masked.names, masked.masking) == (("rank_100", "rank_50", "rank_15"), "vit")
    road = ImputedConfidence((0.1, 0.9), "percentile", "network", noise=0.5, seed=3)
    (imputed,) = perturbations_of([road])
    assert isinstance(imputed, ImputedInputs)
    assert imputed.names == ("morf_10", "morf_90", "lerf_10", "lerf_90")
    assert (imputed.selection, imputed.space, imputed.noise, imputed.seed) == ("percentile", "network", 0.5, 3)
    causal = perturbations_of([Deletion(1), Insertion(1)])
    assert [type(each) for each in causal] == [CausalInputs, CausalInputs]
    names = [name for each in causal for name in each.names]
    assert names == ["insertion_0", "insertion_1", "deletion_0", "deletion_1"]
    every = perturbations_of(build_metrics(NAMES[::-1], {}))
    assert [type(each) for each in every] == [MaskedInputs, ImputedInputs, CausalInputs, CausalInputs]


def test_what_is_measured_unless_asked_otherwise() -> None:
    ad_ic, road, deletion = MaskedConfidence(), ImputedConfidence(), Deletion()
    assert ad_ic.keeps == KEEPS == (1.0, 0.5, 0.15) and ad_ic.scalings == ("minmax", "rank")
    assert road.removes == (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
    assert (road.noise, deletion.steps, ad_ic.ic_margin) == (0.01, 28, 1e-5)


def test_what_runs_must_share_to_be_comparable() -> None:
    found = {name: METRICS.get(name)().must_agree() for name in NAMES}
    assert found == {
        "ad-ic": ("masking", "ic_margin"),
        "road": ("road_selection", "road_space", "noise", "seed"),
        "insertion": ("steps",),
        "deletion": ("steps",),
    }


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ((), {}, "expected metrics among ad-ic, road, insertion, deletion.*, each once, got none"),
        (("road", "roda"), {}, "unknown metric 'roda'; did you mean 'road'\\? Known: ad-ic, road, insertion, deletion"),
        (("road", "road"), {}, "each once, got road, road"),
        (("ad-ic",), {"scalings": ("rank", "rank")}, "expected different scalings and keeps, got .*rank.*rank"),
        (("ad-ic",), {"scalings": ()}, r"expected different scalings and keeps, got \[\]"),
        (("ad-ic",), {"keeps": (50,)}, r"expected keep, a fraction of the pixels, in \(0, 1\], got 50"),
        (("ad-ic",), {"ic_margin": -1e-5}, "expected a margin of 0 or more, got -1e-05"),
        (("ad-ic",), {"ic_margin": math.nan}, "expected a margin of 0 or more, got nan"),
        (("road",), {"removes": (0.0,)}, r"expected remove, .*, in \(0, 1\], got 0.0"),
        (("road",), {"removes": (0.1, 0.1)}, "expected different fractions of pixels to remove"),
        (("road",), {"noise": -1}, "expected noise of 0 or more, got -1"),
        (("deletion",), {"steps": 0}, r"expected insertion or deletion in at least one step, .* in 0"),
    ],
)
def test_what_cannot_be_measured(names: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_metrics(names, settings)


# --- adding a metric


class DimmedInputs(Perturbation):
    """The image times the map, once."""

    def __init__(self, strength: float) -> None:
        self.strength, self.names = strength, ("dimmed",)

    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        scaled = scale_and_upsample(maps, (images.shape[-2], images.shape[-1]), "minmax").unsqueeze(1)
        yield classifier.normalise(images * (1 - self.strength * (1 - scaled)))


@dataclass(frozen=True)
class Dimmed(Metric):
    """The confidence that is left when irrelevant pixels are dimmed."""

    id: ClassVar[str] = "dimmed"
    title: ClassVar[str] = "Dimmed"
    summary: ClassVar[str] = "confidence when irrelevant pixels are dimmed"

    strength: float = 0.5

    def perturbation(self) -> DimmedInputs:
        return DimmedInputs(self.strength)

    def measures(self) -> list[Measure]:
        return [Measure("dimmed/confidence", "Dimmed", "dimmed", True, True, lambda columns: columns["dimmed_p"])]


@pytest.fixture
def dimmed(monkeypatch: pytest.MonkeyPatch) -> type[Metric]:
    """The metric, registered while the test runs."""
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS._entries))
    METRICS.register(Dimmed.id)(Dimmed)
    return Dimmed


def test_a_new_metric_has_its_column_measure_and_settings(
    dimmed: type[Metric], toy_classifier: Make, tmp_path: Path
) -> None:
    metrics = build_metrics(["dimmed", "deletion"], {"strength": 0.75, "steps": 2})
    summary = run(toy_classifier(), tmp_path, metrics)
    assert summary.settings["metrics"] == ["dimmed", "deletion"] and summary.settings["strength"] == 0.75
    found = open_run(tmp_path)
    assert [name for name in found.rows.columns if name.endswith("_p")] == [
        *(f"deletion_{step}_p" for step in range(3)),
        "dimmed_p",
    ]
    assert summary.metrics["dimmed/confidence"].value == 100 * found.rows.columns["dimmed_p"].mean()
    assert read_run(tmp_path)["dimmed/confidence"].mean() == summary.metrics["dimmed/confidence"].value
    assert [measure.title for measure in measures_of(summary.settings)] == ["Deletion", "Dimmed"]
    with pytest.raises(InputError, match=r"other settings: strength 0.75, not 0.5"):
        run(toy_classifier(), tmp_path, build_metrics(["dimmed", "deletion"], {"steps": 2}))


def test_a_new_metric_has_a_callback(dimmed: type[Metric], toy_classifier: Make, tmp_path: Path) -> None:
    module = Module(toy_classifier())
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[MetricCallback(dimmed())],
    )
    (logged,) = trainer.test(module, DataLoader(Images(), batch_size=5), verbose=False)
    summary = run(toy_classifier(), tmp_path / "run", (dimmed(),))
    assert logged == {"test/dimmed/confidence": pytest.approx(summary.metrics["dimmed/confidence"].value, abs=1e-3)}


def test_what_two_metrics_share_is_computed_once(
    dimmed: type[Metric], monkeypatch: pytest.MonkeyPatch, toy_classifier: Make, tmp_path: Path
) -> None:
    @dataclass(frozen=True)
    class Brighter(Dimmed):
        id: ClassVar[str] = "brighter"

        def measures(self) -> list[Measure]:
            return [Measure("brighter/gap", "Gap", "brighter", False, True, lambda columns: _gap(columns), unit="")]

    def _gap(columns: Any) -> Tensor:
        gap: Tensor = (columns["p"] - columns["dimmed_p"]).abs()
        return gap

    METRICS.register("brighter")(Brighter)
    together = (Dimmed(), Brighter())
    assert perturbations_of(together) == [DimmedInputs(0.5)] and hash(DimmedInputs(0.5)) == hash(DimmedInputs(0.5))
    summary = run(toy_classifier(), tmp_path, together)
    columns = open_run(tmp_path).rows.columns
    gap = np.abs(columns["p"] - columns["dimmed_p"])
    assert len(columns["p"]) == COUNT
    assert summary.metrics["brighter/gap"].value == gap.mean()  # without a unit it is no percentage
    with pytest.raises(InputError, match="the metric brighter has another perturbation named dimmed"):
        perturbations_of((Dimmed(), Brighter(0.25)))


def test_a_measure_without_unit_has_the_scale_1() -> None:
    measure = Measure("x", "X", "x", True, True, lambda columns: columns["p"], unit="")
    assert (measure.scale, measure.values({"p": np.array([0.5])}).tolist()) == (1.0, [0.5])
    assert torch.is_tensor(measure.score({"p": torch.ones(1)}))
