"""One explanation, and the files that show it."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from tame.explainers.build import MethodName
from tame.utils.checks import shown
from tame.utils.io import replacing, write_array
from tame.utils.processes import is_of_ended_worker
from tame.visualize import Box, figure, overlay

_SINGLE, _SEVERAL = 600, 400  # side of a panel in pixels, if it is the only one and if it is one of several


Entries: TypeAlias = list[dict[str, Any]]
"""The manifest entries of an image: per method, one per class."""


class Failure(NamedTuple):
    """A file that could not be explained, and the reason in one sentence."""

    file: str
    reason: str


def failure_of(what: str, file: object, error: Exception) -> Failure:
    """Return the failure of a step, with the text of any error on one line.

    An error that torch raises since a worker was killed, which may be at any step, is raised again.
    """
    if is_of_ended_worker(error):
        raise error
    text = " ".join([f"{type(error).__name__}:", *str(error).split()]).rstrip(":")
    return Failure(str(file), shown(f"cannot {what} {file}: {text}"))


class ExplainReport(NamedTuple):
    """The result of `explain_files`: the manifest's entries, and what could not be read or drawn."""

    entries: Entries
    failures: list[Failure]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The evidence for one class in one image.

    Notebooks display it as a titled overlay.

    Attributes:
        image: The whole image, upright RGB; `explain_files` reduces large ones.
        map: float32 (h, w) in [0, 1], min-max scaled at its own resolution.
        target: Index of the explained class.
        class_name: Name of the explained class.
        confidence: The classifier's confidence in that class, in [0, 1].
        method: Explanation method, as it is written in files: ``ttame``, ``gradcam++``, ``ttame@FOLDER``.
        backbone: Name of the classifier.
        preset: Name of the preset.
        image_size: (width, height) of the upright image, in pixels.
        crop: (left, top, right, bottom) of the region that the classifier was shown, in pixels of ``image_size``.
        file: File of the image; None for an image that was passed in memory.
        versions: Versions of Python, this package and its main dependencies.
        note: What is wrong with the map: ``no positive evidence`` where it is constant and not positive, such as a
            Grad-CAM that is zero everywhere, or ``invalid map`` where it held NaN or infinite values; ``map`` is then
            0 everywhere.
    """

    image: Image.Image
    map: np.ndarray
    target: int
    class_name: str
    confidence: float
    method: str
    backbone: str
    preset: str
    image_size: tuple[int, int]
    crop: tuple[float, float, float, float]
    file: str | None
    versions: dict[str, str]
    note: str | None = None

    @property
    def title(self) -> str:
        """Class name, index and confidence, such as ``tabby (281) 93.1 %``, and the note."""
        return f"{self.class_name} ({self.target}) {100 * self.confidence:.1f} %" + (
            f", {self.note}" if self.note else ""
        )

    @property
    def method_title(self) -> str:
        """Name of the method for pictures, such as ``T-TAME`` or ``Grad-CAM++``."""
        return MethodName.of(self.method).title

    def overlay(self, alpha: float = 0.5, colormap: str = "jet") -> Image.Image:
        """Return the map over the whole image, see `tame.visualize.overlay`."""
        return overlay(self.image, self.map, self.drawn_crop, alpha, colormap)

    @property
    def drawn_crop(self) -> Box:
        """The crop in pixels of ``image``, which may be smaller than the explained image."""
        across, down = (drawn / whole for drawn, whole in zip(self.image.size, self.image_size, strict=True))
        left, top, right, bottom = self.crop
        return left * across, top * down, right * across, bottom * down

    def save(self, folder: str | Path) -> Path:
        """Write the titled overlay and the map.

        Args:
            folder: Receives ``STEM.TARGET.overlay.png`` and ``STEM.TARGET.npy``; created if missing.

        Returns:
            The overlay's file.
        """
        name = f"{output_stem(Path(self.file)) if self.file else 'explanation'}.{self.target}"
        path = Path(folder) / f"{name}.overlay.png"
        _write_picture(path, draw_explanations([self]))
        write_array(Path(folder) / f"{name}.npy", self.map)
        return path

    def entry(self, map_file: str, overlay_file: str) -> dict[str, Any]:
        """Return the manifest entry of this explanation and its files, as plain JSON values."""
        return {
            "file": self.file,
            "target": self.target,
            "class_name": self.class_name,
            "confidence": self.confidence if math.isfinite(self.confidence) else None,  # JSON has no NaN
            "map": map_file,
            "overlay": overlay_file,
            "method": self.method,
            "backbone": self.backbone,
            "versions": self.versions,
            "image_size": list(self.image_size),
            "crop": list(self.crop),
            "preset": self.preset,
            **({"note": self.note} if self.note else {}),
        }

    def _repr_png_(self) -> bytes:
        """Return the titled overlay for notebooks."""
        buffer = io.BytesIO()
        draw_explanations([self]).save(buffer, format="PNG")
        return buffer.getvalue()


def output_stem(file: Path) -> str:
    r"""Return the start of the names of an image's files: its own, with an underscore for what is not printable.

    It is cut so that no file system refuses it with an ending.

    Example:
        >>> output_stem(Path("photos/two\nlines.jpg"))
        'two_lines'
    """
    printable = "".join(letter if letter.isprintable() else "_" for letter in file.stem)
    return printable[:80].encode()[:200].decode(errors="ignore")


def write_explanations_of_image(
    out: Path, name: str, explanations: Sequence[Explanation], picture: Image.Image
) -> Entries:
    """Write the explanations of one image by one method: an overlay of all classes, and a map per class.

    Args:
        out: Folder to write to.
        name: Start of the file names; may begin with a subfolder.
        explanations: One per class.
        picture: Their overlay, see `draw_explanations`.

    Returns:
        A manifest entry per class.
    """
    overlay_file = f"{name}.overlay.png"
    _write_picture(out / overlay_file, picture)
    entries = []
    for explanation in explanations:
        map_file = f"{name}.{explanation.target}.npy"
        write_array(out / map_file, explanation.map)
        entries.append(explanation.entry(map_file, overlay_file))
    return entries


def restore_explanation(entry: Mapping[str, Any], out: Path, image: Image.Image) -> Explanation:
    """Return an explanation that was written.

    Args:
        entry: Its manifest entry.
        out: Folder that it was written to.
        image: The whole image, which may be smaller than the explained one.
    """
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(Explanation)}
    values |= {"image": image, "map": np.load(out / entry["map"], allow_pickle=False)}
    values |= {"image_size": tuple(entry["image_size"]), "crop": tuple(entry["crop"])}
    if entry["confidence"] is None:
        values["confidence"] = math.nan
    return Explanation(**values)


def draw_explanations(explanations: Sequence[Explanation]) -> Image.Image:
    """Draw the explanations of one image: a single overlay, or the image followed by several."""
    panels = [(explanation.title, explanation.overlay()) for explanation in explanations]
    if len(panels) == 1:
        return figure(panels, side=_SINGLE)
    first = explanations[0]
    return figure([(Path(first.file or "image").name, first.image), *panels], side=_SEVERAL)


def _write_picture(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
