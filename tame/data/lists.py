"""Lists of images: read, write, draw and split them, and identify them by a hash."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tame.utils.checks import InputError, shown
from tame.utils.io import write_text
from tame.utils.limits import check_numbers

NO_LABEL = "?"  # marks an unknown label in a list file
_LABEL = re.compile(r"\?|-?[0-9]+")
_NOT_IN_A_LINE = re.compile("[\n\r\ud800-\udfff]")  # line breaks, and bytes that are not UTF-8

logger = logging.getLogger("tame")


class ImageEntry(NamedTuple):
    """One image of a list: its file, and its label (None if unknown)."""

    path: Path
    label: int | None


def read_list(list_file: str | Path, image_root: str | Path, num_classes: int) -> list[ImageEntry]:
    """Read a list of images: lines ``path label``, with paths relative to ``image_root``.

    Blank lines, leading and trailing spaces are ignored; paths may contain spaces. The label ``?`` means unknown. In a
    list without any labels, a line is a path. A path that starts with a quotation mark is a JSON string, such as
    ``" space.jpg" 3``, unless only a file of the name as it stands exists. An image that is listed repeatedly is
    counted once, with a log message.

    Args:
        list_file: Text file in UTF-8.
        image_root: Folder that the paths are relative to.
        num_classes: Number of classes; labels are in 0..num_classes - 1.

    Raises:
        InputError: For a line without a label among others with one, a label out of range, a missing image, a folder,
            or an image with two labels, naming the list and the line; also if the list does not exist, cannot be
            read or is empty.
    """
    list_file, image_root = Path(list_file), Path(image_root)
    lines = _numbered_lines(list_file)
    labelled = any(_split_label(line) for _, line in lines)
    entries = []
    for number, line in lines:
        where = f"{list_file}, line {number}"
        name, label = _parse_line(line, num_classes, where) if labelled else (line, None)
        entries.append(ImageEntry(image_root / _unquoted(name, image_root, where), label))
    missing = _missing_files([entry.path for entry in entries])
    if missing:
        number, path = lines[missing[0]][0], entries[missing[0]].path
        what = "is a folder" if os.path.isdir(path) else "does not exist"  # noqa: PTH112 - is false for a name that is too long
        raise InputError(
            f"{list_file}, line {number}: expected the image {shown(path)}, which {what} "
            f"({len(missing)} of {len(entries)} images are missing in {image_root})"
        )
    return _each_once(entries, [number for number, _ in lines], list_file)


def _each_once(entries: Sequence[ImageEntry], numbers: Sequence[int], list_file: Path) -> list[ImageEntry]:
    """Return the entries without repetitions; a known label replaces an unknown one."""
    first: dict[str, int] = {}  # position of each path
    kept = list(entries)
    repeated = []
    for position, (path, label) in enumerate(entries):
        before = first.setdefault(os.path.normpath(path), position)
        if before == position:
            continue
        repeated.append(position)
        if kept[before].label is None:
            kept[before] = ImageEntry(kept[before].path, label)
        elif label not in (None, kept[before].label):
            raise InputError(
                f"{list_file}, line {numbers[position]}: expected one label for each image, got {shown(path)} with "
                f"the labels {kept[before].label} (line {numbers[before]}) and {label}"
            )
    if repeated:
        logger.warning(
            "%s: %d images are listed repeatedly, the first in line %d; each is counted once.",
            list_file,
            len({os.path.normpath(entries[position].path) for position in repeated}),
            numbers[repeated[0]],
        )
    dropped = set(repeated)
    return [entry for position, entry in enumerate(kept) if position not in dropped]


def _numbered_lines(list_file: Path) -> list[tuple[int, str]]:
    if not list_file.is_file():
        raise InputError(f"expected a list of images, got {list_file}, which is not a file")
    try:
        text = list_file.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names may be any bytes
    except OSError as error:
        raise InputError(f"expected a list of images, cannot read {shown(list_file)}: {error}") from error
    if text.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise InputError(f"expected a list of images in UTF-8, got {shown(list_file)} in UTF-16")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise InputError(f"expected at least one line 'path label' in {list_file}, got an empty list")
    return lines


def _split_label(line: str) -> tuple[str, str] | None:
    """Return the path and the label of a line, None if it has no label."""
    words = line.rsplit(maxsplit=1)
    return (words[0], words[1]) if len(words) == 2 and _LABEL.fullmatch(words[1]) else None


def _parse_line(line: str, num_classes: int, where: str) -> tuple[str, int | None]:
    found = _split_label(line)
    if not found:
        raise InputError(
            f"{where}: expected 'path label' with an integer label, got {line!r} (other lines of the list have a label)"
        )
    name, label = found
    if label == NO_LABEL:
        return name, None
    if len(label) > 18 or not 0 <= int(label) < num_classes:
        raise InputError(f"{where}: expected a label in 0..{num_classes - 1}, got {label[:30]}")
    return name, int(label)


def _unquoted(name: str, image_root: Path, where: str) -> str:
    """Return a path as a file name; a path that starts with a quotation mark is a JSON string."""
    plain = name
    if name.startswith('"'):
        try:
            name = json.loads(name)
        except ValueError:
            return plain  # a file's own quotation mark
        if not _is_file(image_root / name) and _is_file(image_root / plain):
            return plain
    try:
        if "\0" in name:
            raise ValueError("it has a null character")
        os.fsencode(name)
    except ValueError as error:
        raise InputError(f"{where}: expected the path of an image, got {plain!r} ({error})") from error
    return name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or that no file can have
        return False


def _missing_files(paths: Sequence[Path]) -> list[int]:
    """Return the indices of the paths that are not files, reading each folder once."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for position, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = _files_of(folder)
        if name not in listings[folder] and not _is_file(path):
            missing.append(position)
    return missing


def _files_of(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as found:
            return frozenset(entry.name for entry in found if entry.is_file())
    except OSError:
        return frozenset()


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
    check_numbers(limit_images=limit)
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
    check_numbers(per_label=limit)
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
    write_text(Path(path), _as_text(entries, image_root))


def _as_text(entries: Sequence[ImageEntry], image_root: str | Path) -> str:
    prefix = str(Path(image_root)) + os.sep
    return "".join(
        f"{_quoted(str(path).removeprefix(prefix).replace(os.sep, '/'))} {NO_LABEL if label is None else label}\n"
        for path, label in entries
    )


def _quoted(name: str) -> str:
    """Return a path as it stands, or as a JSON string if a line of a list would not be read back as this path."""
    plain = name == name.strip() and not name.startswith(('"', "\ufeff")) and not _NOT_IN_A_LINE.search(name)
    return name if plain else json.dumps(name)
