"""What the commands that measure and compare can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tame.options.common import CommonOptions, DataOptions, MethodOptions, names_in
from tame.types import MapScaling, MaskingKind, MetricName


@dataclass
class EvaluateOptions(MethodOptions, DataOptions, CommonOptions):
    """Measure an explanation method.

    Args:
        list: List of images, a path or a name in --lists; empty: Evaluation.txt there, else every image of
            the validation folder.
        maps: Folder of maps made elsewhere, DIR/n01440764/x.npy or DIR/x.npy of the image n01440764/x.JPEG, in place
            of a method.
        metrics: Metrics separated by commas, see `tame list metrics`.
        map_scaling: Readings of the maps for AD and IC, separated by commas: minmax, rank.
        masking: Masking of the images for AD and IC: the backbone's own, cnn or vit; empty: the preset's.
        steps: Steps of insertion and deletion.
        only: correct: images that the classifier gets wrong do not count.
        batch_size: Images per batch.
        pass_rows: Perturbed images per pass through the classifier; 0: as many as fit.
        devices: Number of devices, or of processes on the CPU.
        num_nodes: Number of machines.
        out: Folder of the results; empty: evaluations/BACKBONE/METHOD.
    """

    list: str = ""
    maps: str = ""
    metrics: str = "ad-ic"
    map_scaling: str = "minmax,rank"
    masking: Literal["", "backbone", MaskingKind] = ""
    steps: int = 28
    only: Literal["all", "correct"] = "all"
    batch_size: int = 32
    pass_rows: int = 0
    devices: int = 1
    num_nodes: int = 1
    out: str = ""

    def asked_metrics(self) -> tuple[MetricName, ...]:
        """Return the asked metrics, checked."""
        return names_in("--metrics", self.metrics, MetricName)

    def scalings(self) -> tuple[MapScaling, ...]:
        """Return the asked readings, checked."""
        return names_in("--map-scaling", self.map_scaling, MapScaling)


@dataclass
class CompareOptions(EvaluateOptions):
    """Measure several explanation methods on one classifier, and put them beside each other.

    Args:
        methods: Methods separated by commas, see `tame list methods`; ttame@FOLDER names a checkpoint.
        reference: Method to compare the others with, by paired bootstrap; empty: ttame, if it is among them.
        report: Folder for report.html, one page with tables, curves and explanations to look at; empty: none.
        report_images: Images to look at on that page.
        out: Folder of the results, one folder per method in it; empty: comparisons/BACKBONE.
    """

    methods: str = "ttame,gradcam,gradcam++,scorecam,ablationcam,rise,iia,centre,random,all_ones,fake_cam"
    reference: str = ""
    report: str = ""
    report_images: int = 12

    def asked_methods(self) -> tuple[str, ...]:
        """Return the asked methods, each with its checkpoint where it has one."""
        return names_in("--methods", self.methods)


@dataclass
class TableOptions:
    """Put finished evaluations of the same images beside each other.

    Args:
        runs: Folders of evaluations, in the order of the rows.
        reference: Method or folder to compare with, by paired bootstrap; empty: no comparison.
        format: markdown, latex (needs booktabs) or csv.
        out: File to write; empty: print.
        curves: Draw the ROAD curves here, as PNG and PDF.
        seed: Seed of the bootstrap.
    """

    runs: list[str] = field(default_factory=list)
    reference: str = ""
    format: Literal["markdown", "latex", "csv"] = "markdown"
    out: str = ""
    curves: str = ""
    seed: int = 0
