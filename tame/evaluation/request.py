"""What all methods of an evaluation share: images, metrics, preset, and how passes are made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

from torch.utils.data import DataLoader, Dataset

from tame.classifier import BackboneSpec, FrozenClassifier
from tame.data import draw, list_hash, read_list, resolve_folders, resolve_list, walk_images
from tame.data.lists import ImageEntry
from tame.data.user_images import UserImages
from tame.metrics import Metric, build_metrics
from tame.presets import PRESETS, Preset
from tame.types import MapScaling, MaskingKind, Precision
from tame.utils.checks import InputError
from tame.utils.devices import resolve_precision
from tame.utils.limits import check_numbers

_MARGINS = {"32": 1e-5, "16-mixed": 1e-3, "bf16-mixed": 1e-2}  # about what one rounding step of the logits does to p

Only = Literal["all", "correct"]


class ChosenImages(NamedTuple):
    """Images of an evaluation.

    Attributes:
        entries: The images and their labels, in order.
        files: Their names, relative to the root of the images.
        name: Name of the list, or of the folder.
        sha256: Hash of the list, see `tame.data.list_hash`.
        user_images: The user's own dataset, in which the images are; None: they are files.
    """

    entries: Sequence[ImageEntry]
    files: list[str]
    name: str
    sha256: str
    user_images: UserImages | None = None


@dataclass(frozen=True)
class ImageSelection:
    """Which images are evaluated, see the arguments of `tame.evaluate`."""

    data: str | Path | Dataset[Any] | DataLoader[Any] | None
    lists: str | Path | None
    list: str | Path | None
    limit_images: int | None
    only: Only
    seed: int
    normalised: bool = False

    def choose(self, spec: BackboneSpec) -> ChosenImages:
        """Read the list, or else find every image of the validation folder, and draw from it.

        Raises:
            InputError: For images or a list that cannot be read, or without the labels that ``only`` needs.
        """
        if self.data is not None and not isinstance(self.data, str | Path):
            return self._choose_in_memory(self.data)
        if self.normalised:
            raise InputError("expected normalised only with a Dataset or DataLoader as data: files are in [0, 1]")
        root = resolve_folders(self.data).val
        file = resolve_list(self.list, self.lists, "Evaluation.txt")
        entries = read_list(file, root, spec.num_classes) if file else walk_images(root)
        entries = draw(entries, self.limit_images, self.seed)
        if self.only == "correct" and any(entry.label is None for entry in entries):
            raise InputError("only correct: expected a list with the labels of all images, got some without")
        files = [os.path.relpath(entry.path, root) for entry in entries]
        return ChosenImages(entries, files, file.name if file else root.name, list_hash(entries, root))

    def _choose_in_memory(self, data: Dataset[Any] | DataLoader[Any]) -> ChosenImages:
        """Draw from the user's own dataset, whose images have their indices as names, and no labels."""
        if self.list is not None or self.only == "correct":
            raise InputError("expected list and only correct with a folder as data, got a Dataset or DataLoader")
        images = UserImages.of(data, self.normalised)
        entries = draw(images.entries(), self.limit_images, self.seed)
        files = [str(entry.path) for entry in entries]
        return ChosenImages(entries, files, images.description, list_hash(entries, Path()), images)


@dataclass(frozen=True)
class MetricSelection:
    """Which metrics are computed, see the arguments of `tame.evaluate`."""

    metrics: Sequence[str]
    map_scaling: Sequence[MapScaling]
    masking: Literal["backbone"] | MaskingKind | None
    steps: int
    seed: int

    def build(self, preset: Preset, spec: BackboneSpec, precision: str) -> tuple[Metric, ...]:
        """Build the metrics, with the settings of a preset where they are not asked otherwise.

        Raises:
            InputError: For an unknown metric, or a setting out of range.
        """
        for name, value in (("metrics", self.metrics), ("map_scaling", self.map_scaling)):
            if isinstance(value, str):
                raise InputError(f"expected a sequence of names as {name}, such as [{value!r}], got the text {value!r}")
        return build_metrics(
            self.metrics,
            {
                "scalings": tuple(self.map_scaling),
                "masking": self.asked_masking(spec) or preset.masking or spec.masking,
                "ic_margin": _MARGINS[precision] if preset.ic_margin else 0.0,
                "road_selection": preset.road_selection,
                "road_space": preset.road_space,
                "road_reading": preset.road_reading,
                "steps": self.steps,
                "seed": self.seed,
            },
        )

    def asked_masking(self, spec: BackboneSpec) -> MaskingKind | None:
        """Return the kind of masking that replaces the preset's, None without one."""
        return spec.masking if self.masking == "backbone" else self.masking


@dataclass(frozen=True)
class RunSettings:
    """How a run computes, see the arguments of `tame.evaluate`; only the precision changes its numbers."""

    batch_size: int
    pass_rows: int | None
    num_workers: int
    precision: str
    resume: bool
    progress: bool

    def check(self) -> None:
        """Check the values.

        Raises:
            InputError: For an unknown precision, or numbers out of their limits.
        """
        if self.precision not in get_args(Precision):
            raise InputError(f"expected the precision {', '.join(get_args(Precision))}, got {self.precision!r}")
        check_numbers(batch_size=self.batch_size, num_workers=self.num_workers, pass_rows=self.pass_rows)


@dataclass(frozen=True)
class EvaluationRequest:
    """What all methods of an evaluation share.

    Attributes:
        images: The images.
        metrics: The metrics, configured.
        only: ``correct``: misclassified images do not enter the metrics.
        preset: Name of the preset.
        overrides: Settings that replace those of the preset, for the provenance.
        settings: How it computes, with the precision resolved.
    """

    images: ChosenImages
    metrics: tuple[Metric, ...]
    only: Only
    preset: str
    overrides: Mapping[str, Any]
    settings: RunSettings

    @classmethod
    def of(
        cls,
        classifier: FrozenClassifier,
        images: ImageSelection,
        metrics: MetricSelection,
        preset: str,
        settings: RunSettings,
    ) -> Self:
        """Resolve everything that depends on the classifier and its device.

        Raises:
            InputError: For anything that cannot be used.
        """
        settings.check()
        spec = classifier.spec
        precision = resolve_precision(settings.precision, classifier.mean.device.type)
        masking = metrics.asked_masking(spec)
        request = cls(
            images=images.choose(spec),
            metrics=metrics.build(PRESETS.get(preset), spec, precision),
            only=images.only,
            preset=preset,
            overrides={"masking": masking} if masking else {},
            settings=replace(settings, precision=precision),
        )
        request.check()
        return request

    def check(self) -> None:
        """Check everything that can be checked before any work.

        Raises:
            InputError: For no image, or settings out of range.
        """
        if self.only not in get_args(Only):
            raise InputError(f"expected only {' or '.join(get_args(Only))}, got {self.only!r}")
        self.settings.check()
        if not self.images.files:
            raise InputError("expected at least one image to evaluate, got none")
