"""Explain many image files: overlays, maps, and one manifest."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no type information

from tame.classifier import FrozenClassifier
from tame.data import Crop, load_image, walk_images
from tame.inference.grids import Grids, row_names
from tame.inference.one import Method, Seen, explain_batch, see
from tame.inference.result import write_image
from tame.types import Explainer
from tame.utils.checks import InputError
from tame.utils.io import replacing

logger = logging.getLogger("tame")

_DISPLAY = 1280  # longest side, pixels, of the photographs that are drawn


class Failure(NamedTuple):
    """A file that could not be explained, and why, in one sentence."""

    file: str
    reason: str


class ExplainReport(NamedTuple):
    """What `explain_files` did: the manifest's entries, and the files that it could not read."""

    entries: list[dict[str, Any]]
    failures: list[Failure]


class _Photographs(Dataset["list[Seen] | Failure"]):
    """Files as each of several classifiers sees them; an unreadable one is a `Failure`, so that the others go on."""

    def __init__(self, files: Sequence[Path], crops: Sequence[Crop]) -> None:
        self.files = files
        self.crops = crops

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[Seen] | Failure:
        file = self.files[index]
        try:
            photo = load_image(file)
            views = {crop: see(photo, crop, str(file)) for crop in dict.fromkeys(self.crops)}
        except InputError as error:
            return Failure(str(file), str(error))
        photo.thumbnail((_DISPLAY, _DISPLAY))  # the views show the same photograph
        return [views[crop] for crop in self.crops]


def collect_images(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files among ``paths``, and every image in the folders among them, each once.

    Raises:
        InputError: For a path that does not exist, or a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"expected an image file or a folder of images, got {path}, which does not exist")
        found += [entry.path for entry in walk_images(path)] if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def bundled_photographs() -> list[Path]:
    """Return the photographs that come with the package.

    Example:
        >>> [path.name for path in bundled_photographs()]
        ['chelsea.jpg', 'coffee.jpg']
    """
    return sorted(Path(str(package_files("tame") / "assets" / "photographs")).glob("*.jpg"))


def explain_files(
    files: Sequence[str | Path],
    explainer: Explainer,
    classifier: FrozenClassifier,
    *,
    method: str,
    preset: str,
    out: str | Path,
    targets: Sequence[int] | None = None,
    top: int = 1,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = True,
) -> ExplainReport:
    """Explain image files: an overlay per image, a map per image and class, and ``manifest.json`` at the end.

    Files that cannot be read are named in a warning each, and the others explained.

    Args:
        files: Image files.
        explainer: Explains images (B, C, H, W) in [0, 1] and targets (B,).
        classifier: Scores the classes; brings preprocessing and class names.
        method: Name of the explainer, for the manifest.
        preset: Name of the preset, for the manifest.
        out: Folder that is written to.
        targets: Classes to explain on every image; None: the best ones of each.
        top: How many of the best ones.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        progress: Show a progress bar.

    Raises:
        InputError: For no files, an unknown class, numbers out of range, or a folder that cannot be written to.
    """
    return compare_files(
        files,
        [Method(classifier, explainer, method, preset)],
        out=out,
        targets=targets,
        top=top,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )


def compare_files(
    files: Sequence[str | Path],
    methods: Sequence[Method],
    *,
    out: str | Path,
    targets: Sequence[int] | None = None,
    top: int = 1,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = True,
) -> ExplainReport:
    """Explain the same classes of image files by several methods or classifiers, and draw them in grids.

    One method writes what `explain_files` does. Several write the same files into a folder each, named by method, by
    backbone, or BACKBONE/METHOD where both differ; one ``manifest.json`` for all; and grids with a row per method:
    with one class per image ``grid.png``, a column per image (`image_grid`), else ``NAME.grid.png`` of every image, a
    column per class (`class_grid`). More than six columns become pages, ``grid-1.png`` and so on. A manifest entry
    names its ``grid``.

    Args:
        files: Image files.
        methods: What explains; where backbones differ, their classes may not.
        out: Folder that is written to.
        targets: Classes to explain on every image; None: those that the first method's classifier finds best.
        top: How many of the best ones.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        progress: Show a progress bar.

    Raises:
        InputError: For no files, no methods or two of one name, classifiers of different classes, an unknown class,
            numbers out of range, or a folder that cannot be written to.
    """
    paths, out = [Path(file) for file in files], Path(out)
    folders = _folders(methods)
    _check_request(paths, methods[0].classifier, targets, top, batch_size, num_workers)
    _make_folder(out)
    entries: list[dict[str, Any]] = []
    failures: list[Failure] = []
    data = _Photographs(paths, [Crop.of(by.classifier.spec.preprocessing) for by in methods])
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=list)
    grids = Grids(out)
    with tqdm(total=len(paths), desc="explain", unit="image", disable=None if progress else True) as bar:
        names = iter(_output_names(paths))
        for batch in loader:
            named = [(next(names), item) for item in batch]
            readable = [(name, item) for name, item in named if not isinstance(item, Failure)]
            for failure in (item for item in batch if isinstance(item, Failure)):
                bar.clear()  # else the sentence stands behind the bar
                logger.warning(failure.reason)
                failures.append(failure)
            explained = explain_batch([views for _, views in readable], methods, targets, top)
            for (name, _), rows in zip(readable, explained, strict=True):
                written = [write_image(out, f"{at}{name}", row) for at, row in zip(folders, rows, strict=True)]
                entries += chain.from_iterable(written)
                if len(methods) > 1:
                    grids.add(name, rows, written)
            bar.update(len(batch))
    grids.close()
    with replacing(out / "manifest.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return ExplainReport(entries, failures)


def _folders(methods: Sequence[Method]) -> list[str]:
    """Return where each method writes, a folder with its slash, or none where there is one method."""
    if not methods:
        raise InputError("expected at least one method to explain with, got none")
    if len(methods) == 1:
        return [""]
    names = row_names((by.classifier.spec.name, by.method) for by in methods)
    folders = ["".join(re.sub(r"[^\w.+-]+", ".", part.replace("@", "-")) + "/" for part in name) for name in names]
    if len({folder.lower() for folder in folders}) < len(folders):
        raise InputError(f"expected methods of different names, got {', '.join(map(' '.join, names))}")
    classes = {by.classifier.spec.name: by.classifier.spec.class_names for by in methods}
    if len(set(classes.values())) > 1:
        raise InputError(f"expected backbones of the same classes, got {' and '.join(classes)}")
    return folders


def _check_request(
    paths: list[Path],
    classifier: FrozenClassifier,
    targets: Sequence[int] | None,
    top: int,
    batch_size: int,
    num_workers: int,
) -> None:
    if not paths:
        raise InputError("expected at least one image file to explain, got none")
    if targets is not None and not targets:
        raise InputError("expected at least one class to explain, or None for the best ones, got none")
    for target in targets or ():
        classifier.spec.resolve_target(target)
    if not 1 <= top <= classifier.spec.num_classes:
        raise InputError(f"expected top in 1..{classifier.spec.num_classes}, got {top}")
    if batch_size < 1 or num_workers < 0:
        raise InputError(f"expected batch_size >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a folder to write to, got {out}: {error.strerror or error}") from error


def _output_names(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a name per file, its stem, made different from the earlier ones whatever the case of their letters."""
    used: set[str] = set()
    for path in paths:
        stem = path.stem[:80]  # a longer name may not fit into a file name with its endings
        name, count = stem, 1
        while name.lower() in used:
            count += 1
            name = f"{stem}-{count}"
        used.add(name.lower())
        yield name
