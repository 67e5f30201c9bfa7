"""Lists of images: read, write, find, draw and split them, and identify them by a hash."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values

from tame.utils.checks import InputError
from tame.utils.io import replacing

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"}
NO_LABEL = "?"  # marks an unknown label in a list file


class ImageEntry(NamedTuple):
    """One image of a list: its file, and its label (None if unknown)."""

    path: Path
    label: int | None


class ImageFolders(NamedTuple):
    """The folders of the training images and of the validation images."""

    train: Path
    val: Path


def read_list(list_file: str | Path, image_root: str | Path, num_classes: int) -> list[ImageEntry]:
    """Read a list of images: lines ``path label``, with paths relative to ``image_root``.

    Blank lines, leading and trailing spaces are ignored; paths may contain spaces. The label ``?`` means unknown.

    Args:
        list_file: Text file in UTF-8.
        image_root: Folder that the paths are relative to.
        num_classes: Number of classes; labels are in 0..num_classes - 1.

    Raises:
        InputError: For a line without a label, a label out of range or a missing image, naming the list and the line;
            also if the list does not exist, cannot be read or is empty.
    """
    list_file, image_root = Path(list_file), Path(image_root)
    lines = _numbered_lines(list_file)
    entries = []
    for number, line in lines:
        name, label = _parse_line(line, num_classes, f"{list_file}, line {number}")
        entries.append(ImageEntry(image_root / name, label))
    missing = _missing_files([entry.path for entry in entries])
    if missing:
        number, path = lines[missing[0]][0], entries[missing[0]].path
        raise InputError(
            f"{list_file}, line {number}: expected the image {path}, which does not exist "
            f"({len(missing)} of {len(entries)} images are missing in {image_root})"
        )
    return entries


def _numbered_lines(list_file: Path) -> list[tuple[int, str]]:
    if not list_file.is_file():
        raise InputError(f"expected a list of images, got {list_file}, which is not a file")
    try:
        text = list_file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"expected a list of images in UTF-8, cannot read {list_file}: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise InputError(f"expected at least one line 'path label' in {list_file}, got an empty list")
    return lines


def _parse_line(line: str, num_classes: int, where: str) -> tuple[str, int | None]:
    name, label = line.rsplit(maxsplit=1) if len(line.split()) > 1 else (line, "")
    if label == NO_LABEL:
        return name, None
    if not (label.isascii() and label.removeprefix("-").isdigit()):
        raise InputError(f"{where}: expected 'path label' with an integer label, got {line!r}")
    if not 0 <= int(label) < num_classes:
        raise InputError(f"{where}: expected a label in 0..{num_classes - 1}, got {label}")
    return name, int(label)


def _missing_files(paths: Sequence[Path]) -> list[int]:
    """Return the indices of the files that do not exist, reading each folder once."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for position, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = frozenset(os.listdir(folder)) if os.path.isdir(folder) else frozenset()  # noqa: PTH112, PTH208 - faster for 1.3 million files
        if name not in listings[folder] and not path.is_file():
            missing.append(position)
    return missing


def walk_images(folder: str | Path) -> list[ImageEntry]:
    """Return all images in ``folder`` and its subfolders, sorted, without labels; hidden files are skipped.

    Raises:
        InputError: If ``folder`` is not a folder, or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of images, got {folder}, which is not a folder")
    paths = [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")  # noqa: PTH122 - faster
    ]
    if not paths:
        raise InputError(f"expected images (.jpg, .png, ...) in {folder} or its subfolders, got none")
    return [ImageEntry(path, None) for path in sorted(paths)]


def draw(entries: Sequence[ImageEntry], limit: int | None, seed: int) -> list[ImageEntry]:
    """Draw a random subset of entries, in their original order.

    With the same seed, a smaller subset is part of a larger one.

    Args:
        entries: The entries to draw from.
        limit: Number of entries; default: all.
        seed: Seed of the draw.

    Raises:
        InputError: For a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected a number of images of 1 or more, got {limit}")
    return [entries[index] for index in sorted(_shuffled(len(entries), seed)[:limit])]


def draw_per_label(entries: Sequence[ImageEntry], limit: int | None, seed: int) -> list[ImageEntry]:
    """Draw a random subset with at most ``limit`` entries per label, in their original order.

    Entries without a label are all kept.

    Args:
        entries: The entries to draw from.
        limit: Largest number of entries per label; default: all.
        seed: Seed of the draw.

    Raises:
        InputError: For a limit below 1.

    Example:
        >>> entries = [ImageEntry(Path(f"{index}.jpg"), index % 2) for index in range(10)]
        >>> [entry.label for entry in draw_per_label(entries, 2, seed=0)].count(1)
        2
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected a number of images per label of 1 or more, got {limit}")
    taken: Counter[int] = Counter()
    chosen = []
    for index in _shuffled(len(entries), seed):
        label = entries[index].label
        if label is not None:
            taken[label] += 1
        if label is None or limit is None or taken[label] <= limit:
            chosen.append(index)
    return [entries[index] for index in sorted(chosen)]


def split_validation(
    entries: Sequence[ImageEntry], fraction: float = 0.1, seed: int = 0
) -> tuple[list[ImageEntry], list[ImageEntry]]:
    """Split entries at random into training and validation entries, both in their original order.

    Args:
        entries: At least two entries.
        fraction: Fraction of the entries for validation, in (0, 1); each part gets at least one.
        seed: Seed of the split.

    Raises:
        InputError: For fewer than two entries, or a fraction out of range.

    Example:
        >>> entries = [ImageEntry(Path(f"{index}.jpg"), None) for index in range(20)]
        >>> train, val = split_validation(entries)
        >>> len(train), len(val), sorted(train + val) == sorted(entries)
        (18, 2, True)
    """
    if not 0 < fraction < 1:
        raise InputError(f"expected a validation fraction between 0 and 1, got {fraction}")
    if len(entries) < 2:
        raise InputError(f"expected at least two images to split off a validation set, got {len(entries)}")
    count = min(max(1, round(len(entries) * fraction)), len(entries) - 1)
    chosen = set(_shuffled(len(entries), seed)[:count])
    train = [entry for index, entry in enumerate(entries) if index not in chosen]
    return train, [entries[index] for index in sorted(chosen)]


def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def list_hash(entries: Sequence[ImageEntry], image_root: str | Path) -> str:
    """Return the SHA-256 over the paths relative to ``image_root`` and the labels, in order."""
    return hashlib.sha256(_as_text(entries, image_root).encode("utf-8", "surrogateescape")).hexdigest()


def write_list(path: str | Path, entries: Sequence[ImageEntry], image_root: str | Path) -> None:
    """Write a list in the format of `read_list`; the file is written atomically."""
    with replacing(path) as temporary:
        temporary.write_text(_as_text(entries, image_root), encoding="utf-8")


def _as_text(entries: Sequence[ImageEntry], image_root: str | Path) -> str:
    prefix = str(Path(image_root)) + os.sep
    return "".join(
        f"{str(path).removeprefix(prefix).replace(os.sep, '/')} {NO_LABEL if label is None else label}\n"
        for path, label in entries
    )


def resolve_folders(data: str | Path | None) -> ImageFolders:
    """Find the folders of the training and validation images.

    Args:
        data: Root of ImageNet (with the subfolders ILSVRC2012_img_train and ILSVRC2012_img_val) or any folder of
            images; default: the variable DATA of the environment, or of ``.env`` in the working directory.

    Raises:
        InputError: If no folder is named, or it does not exist.
    """
    folder = _folder(data, "data", "DATA")
    if folder is None:
        raise InputError("expected a folder of images: name it with data, or set DATA in the environment or in .env")
    train, val = (folder / f"ILSVRC2012_img_{part}" for part in ("train", "val"))
    return ImageFolders(train if train.is_dir() else folder, val if val.is_dir() else folder)


def resolve_list(name: str | Path | None, lists_dir: str | Path | None, default: str) -> Path | None:
    """Find a list of images.

    Args:
        name: Path of a list, or name of a file in ``lists_dir``; default: the file ``default`` in ``lists_dir``, if it
            exists.
        lists_dir: Folder of lists; default: the variable LIST of the environment, or of ``.env`` in the working
            directory.
        default: Name of the default list.

    Returns:
        Path of the list; None if ``name`` is None and there is no default list.

    Raises:
        InputError: If the named list or the folder does not exist.
    """
    if name and Path(name).expanduser().is_file():
        return Path(name).expanduser()
    folder = _folder(lists_dir, "lists", "LIST")
    found = folder / (name or default) if folder else None
    if found and found.is_file():
        return found
    if not name:
        return None
    where = f"in the folder of lists {folder}" if folder else "in a folder of lists (neither lists nor LIST is set)"
    raise InputError(f"expected a list of images, got {str(name)!r}, which is neither a file nor a name {where}")


def _folder(value: str | Path | None, argument: str, variable: str) -> Path | None:
    """Return the folder named by an argument, otherwise by a variable of the environment or of ``.env``."""
    source = argument
    if not value:
        value = os.environ.get(variable) or dotenv_values(Path.cwd() / ".env").get(variable)
        source = f"{variable} (from the environment or .env)"
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise InputError(f"expected a folder as {source}, got {str(value)!r}")
    return folder
