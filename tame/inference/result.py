"""One explanation, and the files that show it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tame.explainers.build import MethodName
from tame.utils.io import replacing, write_array
from tame.visualize import Box, figure, overlay

_SINGLE, _SEVERAL = 600, 400  # side of a panel in pixels, if it is the only one and if it is one of several


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
        _write_picture(path, _draw([self]))
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
        _draw([self]).save(buffer, format="PNG")
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


def write_explanations_of_image(out: Path, name: str, explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """Write the explanations of one image by one method: an overlay of all classes, and a map per class.

    Args:
        out: Folder to write to.
        name: Start of the file names; may begin with a subfolder.
        explanations: One per class.

    Returns:
        A manifest entry per class.
    """
    overlay_file = f"{name}.overlay.png"
    _write_picture(out / overlay_file, _draw(explanations))
    entries = []
    for explanation in explanations:
        map_file = f"{name}.{explanation.target}.npy"
        write_array(out / map_file, explanation.map)
        entries.append(explanation.entry(map_file, overlay_file))
    return entries


def _draw(explanations: Sequence[Explanation]) -> Image.Image:
    """Draw the explanations of one image: a single overlay, or the image followed by several."""
    panels = [(explanation.title, explanation.overlay()) for explanation in explanations]
    if len(panels) == 1:
        return figure(panels, side=_SINGLE)
    first = explanations[0]
    return figure([(Path(first.file or "image").name, first.image), *panels], side=_SEVERAL)


def _write_picture(path: Path, picture: Image.Image) -> None:
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
