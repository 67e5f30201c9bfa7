"""Find the images of a folder, and the folders and lists that a user names."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values

from tame.data.lists import ImageEntry
from tame.utils.checks import InputError
from tame.utils.folders import claimed

logger = logging.getLogger("tame")

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"}
_NO_IMAGES = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".log"}
_NO_IMAGES |= {".py", ".ipynb", ".npy", ".npz", ".pt", ".pth", ".db", ".ini", ".lnk", ".mat", ".parquet"}
_PICTURES = (".png", ".jpg")  # that this package writes


class ImageFolders(NamedTuple):
    """The folders of the training images and of the validation images."""

    train: Path
    val: Path


def walk_images(folder: str | Path) -> list[ImageEntry]:
    """Return all images in ``folder`` and its subfolders, sorted, without labels.

    Hidden files and folders, such as ``.ipynb_checkpoints``, are left out. Links to folders are followed, and a folder
    that several of them lead to is read once. Pictures that this package wrote, such as overlays, are left out. They
    and other files that may be images, such as HEIC or PDF, are counted in a log message.

    Raises:
        InputError: If ``folder`` is not a folder, or contains no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a folder of images, got {folder}, which is not a folder")
    paths, others, own = [], [], Counter[str]()
    for path in _visible_files(str(folder), own):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - faster for 1.3 million files
        if suffix in IMAGE_SUFFIXES:
            paths.append(Path(path))
        elif suffix not in _NO_IMAGES:
            others.append(suffix or "without suffix")
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(Counter(others).items()))
    if +own:
        written = ", ".join(f"{kind}: {count}" for kind, count in (+own).items())
        logger.warning("Left out in %s what this package wrote there (%s).", folder, written)
    if not paths:
        skipped = f" (skipped: {counts})" if counts else ""
        raise InputError(f"expected images (.jpg, .png, ...) in {folder} or its subfolders, got none{skipped}")
    if counts:
        logger.warning("Skipped files in %s that are not read as images: %s.", folder, counts)
    return [ImageEntry(path, None) for path in sorted(paths)]


def own_outputs(folder: str | Path) -> set[str]:
    """Return the names of the files and folders (with a slash at the end) of a folder that this package wrote."""
    try:
        return claimed(Path(folder))
    except InputError as error:
        logger.warning("%s.", error)
        return set()


def _visible_files(folder: str, own: Counter[str]) -> Iterator[str]:
    """Yield the files below a folder; links to folders are followed after everything else, each folder once.

    Args:
        folder: Where to begin.
        own: Receives the number of pictures and of folders that this package wrote, which are left out.
    """
    seen: set[tuple[int, int]] = set()
    ours: set[str] = set()
    waiting = [folder]
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=_say_unreadable):
            status = os.stat(parent)  # noqa: PTH116 - faster
            if (status.st_dev, status.st_ino) in seen:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            ours |= {os.path.join(parent, name) for name in own_outputs(parent)}  # noqa: PTH118
            visible = sorted(name for name in folders if not name.startswith("."))
            folders[:] = [name for name in visible if os.path.join(parent, name, "") not in ours]  # noqa: PTH118
            waiting += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]  # noqa: PTH114, PTH118
            paths = [os.path.join(parent, name) for name in names if not name.startswith(".")]  # noqa: PTH118
            yield from (path for path in paths if path not in ours)
            own["folders"] += len(visible) - len(folders)
            own["pictures"] += sum(path in ours and path.endswith(_PICTURES) for path in paths)


def _say_unreadable(error: OSError) -> None:
    logger.warning("Cannot read the folder %s: %s.", error.filename, error.strerror)


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
    folder = resolve_lists(lists_dir)
    found = folder / (name or default) if folder else None
    if found and found.is_file():
        return found
    if not name:
        return None
    where = f"in the folder of lists {folder}" if folder else "in a folder of lists (neither lists nor LIST is set)"
    raise InputError(f"expected a list of images, got {str(name)!r}, which is neither a file nor a name {where}")


def resolve_lists(lists_dir: str | Path | None) -> Path | None:
    """Find the folder of lists, see `resolve_list`; None where none is named.

    Raises:
        InputError: If it does not exist.
    """
    return _folder(lists_dir, "lists", "LIST")


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
