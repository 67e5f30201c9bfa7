"""Maps computed elsewhere, read from a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tame.utils.checks import InputError, shown


class MapFiles:
    """One ``.npy`` file per image of a list: ``DIR/n01440764/x.npy`` of ``n01440764/x.JPEG``, or ``DIR/x.npy``.

    The maps must explain the class that the classifier predicts. Each is (h, w), of any float or integer type, all of
    one shape.

    Args:
        folder: DIR.
        files: Name of each image of the list, relative to the images' root.

    Raises:
        InputError: For maps that are missing, cannot be read or have another shape.
    """

    def __init__(self, folder: str | Path, files: Sequence[str]) -> None:
        self.name, folder = str(folder), Path(folder)
        if not folder.is_dir():
            raise InputError(f"expected a folder of maps, got {shown(folder)}")
        self.folder = folder
        self.paths = [_find(folder, file) for file in files]
        missing = [file for file, path in zip(files, self.paths, strict=True) if path is None]
        if missing:
            raise InputError(
                f"{shown(folder)} lacks the maps of {len(missing)} of {len(files)} images, such as "
                f"{shown(Path(missing[0]).with_suffix('.npy'))}"
            )
        if len(set(self.paths)) < len(set(files)):
            shared = next(path for path in self.paths if self.paths.count(path) > 1)
            raise InputError(f"expected a map of its own for each image, got {shown(shared)} for several")
        shapes = {_read(path, only_header=True).shape: path for path in self.paths if path}
        if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
            raise InputError(f"expected maps (h, w) of one shape in {shown(folder)}, got {sorted(shapes)}")

    @property
    def sha256(self) -> str:
        """Hash of the files' content, in the order of the list."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes() if path else b"").digest())
        return digest.hexdigest()

    def __call__(self, indices: Tensor) -> Tensor:
        """Return the maps (B, h, w) float32 of the images at these positions (B,) of the list."""
        arrays = [_read(path) for index in indices.tolist() if (path := self.paths[index])]
        return torch.from_numpy(np.stack([array.astype(np.float32) for array in arrays]))


def _find(folder: Path, file: str) -> Path | None:
    name = Path(file).with_suffix(".npy")
    return next((path for path in (folder / name, folder / name.name) if path.is_file()), None)


def _read(path: Path, only_header: bool = False) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if only_header else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"expected a map as a .npy file, got {shown(path)}: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays under another name
        raise InputError(f"expected a map as a .npy file, got {shown(path)}: it holds {type(array).__name__}")
    if array.dtype.kind not in "fiub":
        raise InputError(f"expected a map of numbers, got {shown(path)} of type {array.dtype}")
    return array
