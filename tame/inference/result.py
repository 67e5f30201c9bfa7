"""One explanation: what was explained, by what, and the files that show it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tame.utils.io import replacing, write_array
from tame.visualize import figure, overlay

_ALONE, _BESIDE = 600, 400  # side, pixels, of a single panel and of one among several


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where one class is seen in one photograph.

    Attributes:
        photo: EXIF-corrected RGB, uncropped; `explain_files` makes large ones smaller.
        map: float32 (h, w) in [0, 1], min-max scaled at its own resolution.
        target: Index of the explained class.
        class_name: Its name.
        confidence: Its score by the classifier, in [0, 1].
        method: Name of the explanation method.
        backbone: Name of the classifier.
        preset: Name of the preset.
        image_size: (width, height) of the EXIF-corrected photograph, pixels.
        crop: (left, top, right, bottom) of what the classifier was shown, in pixels of ``image_size``.
        file: Where the photograph came from, if from a file.
        versions: Of Python, this package, and what it rests on.
    """

    photo: Image.Image
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

    @property
    def title(self) -> str:
        """Class name, index and confidence, such as ``tabby (281) 93.1 %``."""
        return f"{self.class_name} ({self.target}) {100 * self.confidence:.1f} %"

    def overlay(self, alpha: float = 0.5, colormap: str = "jet") -> Image.Image:
        """Return the map over the whole photograph, see `tame.visualize.overlay`."""
        scale = self.photo.width / self.image_size[0]
        left, top, right, bottom = (edge * scale for edge in self.crop)
        return overlay(self.photo, self.map, (left, top, right, bottom), alpha, colormap)

    def save(self, folder: str | Path) -> Path:
        """Write ``STEM.TARGET.overlay.png`` (with a title) and ``STEM.TARGET.npy``; return the first."""
        name = f"{Path(self.file).stem if self.file else 'explanation'}.{self.target}"
        path = Path(folder) / f"{name}.overlay.png"
        _write_picture(path, _picture([self]))
        write_array(Path(folder) / f"{name}.npy", self.map)
        return path

    def entry(self, map_file: str, overlay_file: str) -> dict[str, Any]:
        """Return what a manifest says of this explanation and its files, as plain JSON values."""
        return {
            "file": self.file,
            "target": self.target,
            "class_name": self.class_name,
            "confidence": self.confidence,
            "map": map_file,
            "overlay": overlay_file,
            "method": self.method,
            "backbone": self.backbone,
            "versions": self.versions,
            "image_size": list(self.image_size),
            "crop": list(self.crop),
            "preset": self.preset,
        }

    def _repr_png_(self) -> bytes:
        """Show the titled overlay in notebooks."""
        buffer = io.BytesIO()
        _picture([self]).save(buffer, format="PNG")
        return buffer.getvalue()


def _picture(explanations: Sequence[Explanation]) -> Image.Image:
    """Draw the explanations of one photograph: one alone, several beside the photograph."""
    panels = [(explanation.title, explanation.overlay()) for explanation in explanations]
    if len(panels) == 1:
        return figure(panels, side=_ALONE)
    first = explanations[0]
    return figure([(Path(first.file or "photograph").name, first.photo), *panels], side=_BESIDE)


def write_image(out: Path, name: str, explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """Write the overlays and maps of one photograph into ``out``; return their manifest entries."""
    overlay_file = f"{name}.overlay.png"
    _write_picture(out / overlay_file, _picture(explanations))
    entries = []
    for explanation in explanations:
        map_file = f"{name}.{explanation.target}.npy"
        write_array(out / map_file, explanation.map)
        entries.append(explanation.entry(map_file, overlay_file))
    return entries


def _write_picture(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
