"""Explain image files with built explainers: overlays, maps, grids and one manifest."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no type information

from tame.data import Crop, load_image
from tame.inference.batch import Classes, NamedExplainer, PreparedImage, explain_batch, prepare_image
from tame.inference.grids import Grids, row_names
from tame.inference.result import output_stem, write_explanations_of_image
from tame.utils.checks import InputError
from tame.utils.io import replacing
from tame.utils.limits import check_numbers

logger = logging.getLogger("tame")

_LARGEST = 1280  # longest side of the images that are drawn, in pixels
_MOST_CONFIDENT = Classes()


class Failure(NamedTuple):
    """A file that could not be explained, and the reason in one sentence."""

    file: str
    reason: str


class ExplainReport(NamedTuple):
    """The result of `explain_files`: the manifest's entries, and the files that could not be read."""

    entries: list[dict[str, Any]]
    failures: list[Failure]


class _ImageFiles(Dataset["list[PreparedImage] | Failure"]):
    """Files prepared for several classifiers; an unreadable one is a `Failure`, and does not stop the others."""

    def __init__(self, files: Sequence[Path], crops: Sequence[Crop]) -> None:
        self.files = files
        self.crops = crops

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> list[PreparedImage] | Failure:
        file = self.files[index]
        try:
            image = load_image(file)
            prepared = {crop: prepare_image(image, crop, str(file)) for crop in dict.fromkeys(self.crops)}
        except InputError as error:
            return Failure(str(file), str(error))
        image.thumbnail((_LARGEST, _LARGEST))  # in place, so in all that was prepared
        return [prepared[crop] for crop in self.crops]


def write_explanations(
    files: Sequence[str | Path],
    methods: Sequence[NamedExplainer],
    *,
    out: str | Path,
    classes: Classes = _MOST_CONFIDENT,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: bool = True,
) -> ExplainReport:
    """Explain image files by one explainer or several, and draw several in grids.

    One explainer writes an overlay per image and a map per image and class. Several write the same files to a folder
    each, named by method, by backbone, or BACKBONE/METHOD if both differ; and grids with a row per explainer: with one
    class per image ``grid.png``, a column per image (`image_grid`), otherwise ``NAME.grid.png`` of each image, a column
    per class (`class_grid`). Grids of more than six columns are split into pages, ``grid-1.png`` and so on.

    ``manifest.json`` is written at the end, with an entry per map that names its overlay and grid. Files that cannot be
    read are logged as warnings, and the others explained.

    Args:
        files: Image files.
        methods: The explainers; their classifiers must have the same classes.
        out: Folder to write to.
        classes: Classes to explain; the most confident ones are those of the first explainer's classifier.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        progress: Show a progress bar.

    Raises:
        InputError: For no files, no explainers or two of one name, classifiers of different classes, an unknown class,
            numbers out of range, or a folder that cannot be written to.
    """
    paths, out = [Path(file) for file in files], Path(out)
    folders = _folders(methods)
    check_files(paths, batch_size, num_workers)
    classes.check(methods[0].classifier.spec)
    _make_folder(out)
    entries: list[dict[str, Any]] = []
    failures: list[Failure] = []
    data = _ImageFiles(paths, [Crop.of(by.classifier.spec.preprocessing) for by in methods])
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=list)
    grids = Grids(out)
    with tqdm(total=len(paths), desc="explain", unit="image", disable=None if progress else True) as bar:
        names = iter(_output_names(paths))
        for batch in loader:
            named = [(next(names), item) for item in batch]
            readable = [(name, item) for name, item in named if not isinstance(item, Failure)]
            for failure in (item for item in batch if isinstance(item, Failure)):
                bar.clear()  # otherwise the message follows the bar on its line
                logger.warning(failure.reason)
                failures.append(failure)
            explained = explain_batch([prepared for _, prepared in readable], methods, classes)
            for (name, _), rows in zip(readable, explained, strict=True):
                written = [
                    write_explanations_of_image(out, f"{folder}{name}", row)
                    for folder, row in zip(folders, rows, strict=True)
                ]
                for each in chain.from_iterable(rows):
                    if each.note:
                        bar.clear()
                        logger.warning("%s: %s, %s of %s", each.file, each.note, each.method_title, each.class_name)
                entries += chain.from_iterable(written)
                if len(methods) > 1:
                    grids.add(name, rows, written)
            bar.update(len(batch))
    grids.close()
    with replacing(out / "manifest.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return ExplainReport(entries, failures)


def check_files(files: Sequence[Path], batch_size: int, num_workers: int) -> None:
    """Check what is read, and how.

    Raises:
        InputError: For no files, or numbers out of range.
    """
    if not files:
        raise InputError("expected at least one image file to explain, got none")
    check_numbers(batch_size=batch_size, num_workers=num_workers)


def _folders(methods: Sequence[NamedExplainer]) -> list[str]:
    """Return each method's subfolder with a slash at its end, or nothing for a single method."""
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


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"expected a folder to write to, got {out}: {error.strerror or error}") from error


def _output_names(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a name per file: its stem, with a number if an earlier name differs from it in case only."""
    used: set[str] = set()
    numbers: dict[str, int] = {}  # the last number of each stem
    for path in paths:
        stem = output_stem(path)
        name, number = stem, numbers.get(stem.lower(), 1)
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        numbers[stem.lower()] = number
        used.add(name.lower())
        yield name
