"""Explain image files with built explainers: overlays, maps, grids and one manifest."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from tame.data import Crop
from tame.inference.batch import Classes, NamedExplainer, PreparedImage, explain_batch
from tame.inference.grids import Grids, grid_names, row_names
from tame.inference.image_files import ImageFiles
from tame.inference.journal import Journal, journal_settings
from tame.inference.result import (
    Entries,
    ExplainReport,
    Explanation,
    Failure,
    draw_explanations,
    failure_of,
    output_stem,
    restore_explanation,
    write_explanations_of_image,
)
from tame.utils.checks import InputError
from tame.utils.folders import claim, claimed, locked
from tame.utils.io import write_text
from tame.utils.limits import check_numbers
from tame.utils.processes import noticing_ended_workers

logger = logging.getLogger("tame")

MANIFEST = "manifest.json"

_MOST_CONFIDENT = Classes()
_MAP = re.compile(r"(.+)\.\d+\.npy")  # name of a map, after the start of its image's files

Rows = Sequence[Sequence[Explanation]]
"""Of an image: per method, an explanation of each class."""


def write_explanations(
    files: Sequence[str | Path],
    methods: Sequence[NamedExplainer],
    *,
    out: str | Path,
    classes: Classes = _MOST_CONFIDENT,
    batch_size: int = 8,
    num_workers: int = 0,
    resume: bool = True,
    progress: bool = True,
) -> ExplainReport:
    """Explain image files by one explainer or several, and draw several in grids.

    One explainer writes an overlay per image and a map per image and class. Several write the same files to a folder
    each, named by method, by backbone, or BACKBONE/METHOD if both differ; and grids with a row per explainer: with one
    class per image ``grid.png``, a column per image (`image_grid`), otherwise ``NAME.grid.png`` of each image, a column
    per class (`class_grid`). Grids of more than six columns are split into pages, ``grid-1.png`` and so on.

    ``manifest.json`` is written at the end, with an entry per map that names its overlay and grid. Files that cannot be
    read or drawn are logged as warnings, and the others explained. An interrupted run is resumed image by image, if the
    explainers and classes are the same. One process at a time writes to a folder, and only files that an earlier run
    wrote are replaced.

    Args:
        files: Image files.
        methods: The explainers; their classifiers must have the same classes.
        out: Folder to write to.
        classes: Classes to explain; the most confident ones are those of the first explainer's classifier.
        batch_size: Images per batch.
        num_workers: Processes that read images; 0 reads in the main process.
        resume: Resume an interrupted run; False starts over.
        progress: Show a progress bar.

    Raises:
        InputError: For no files, no explainers or two of one name, classifiers of different classes, an unknown class,
            numbers out of range, or a folder that cannot be written to, that another process writes to, or that holds
            files of the same names that no run wrote; if a process that reads images was killed.
        WriteError: If the disk is full, for instance; what is written is resumed.
    """
    paths, out = [Path(file) for file in files], Path(out)
    folders = _folders(methods)
    check_files(paths, batch_size, num_workers)
    classes.check(methods[0].classifier.spec)
    _make_folder(out)
    names = list(_output_names(paths))
    with locked(out) as check_lock:
        _claim(out, folders, names, classes.count)
        with Journal(out, journal_settings(methods, classes), paths, names, resume) as journal:
            run = _Run(out, methods, folders, names, classes, journal)
            done = () if len(methods) > 1 else journal.done  # grids need all images
            images = ImageFiles(paths, [Crop.of(by.classifier.spec.preprocessing) for by in methods])
            with noticing_ended_workers():
                for batch in images.batches(batch_size, num_workers, done, progress):
                    check_lock()
                    run.explain(batch)
            report = run.report()
            write_text(out / MANIFEST, json.dumps(report.entries, indent=2, allow_nan=False) + "\n")
    return report


class _Run:
    """Explains batches of images, and writes what is explained.

    Args:
        out: Folder to write to.
        methods: The explainers.
        folders: Each one's subfolder, with a slash at its end, or nothing.
        names: Start of each image's file names.
        classes: Classes to explain.
        journal: Knows which images are done, and is told.
    """

    def __init__(
        self,
        out: Path,
        methods: Sequence[NamedExplainer],
        folders: Sequence[str],
        names: Sequence[str],
        classes: Classes,
        journal: Journal,
    ) -> None:
        self.out, self.methods, self.folders, self.names = out, methods, folders, names
        self.classes, self.journal = classes, journal
        self.entries: dict[int, Entries] = dict(journal.done)
        self.failures: list[Failure] = []
        self.grids = Grids(out)

    def explain(self, batch: Mapping[int, list[PreparedImage] | Failure]) -> None:
        """Explain the images of a batch that are not done, write them, and add all to the grids."""
        for item in batch.values():
            if isinstance(item, Failure):
                self._fail(item)
        images = {position: item for position, item in batch.items() if not isinstance(item, Failure)}
        rows = {position: found for position in images if (found := self._restored(position, images[position]))}
        fresh = [position for position in images if position not in rows]
        explained = explain_batch([images[position] for position in fresh], self.methods, self.classes)
        for position, found in zip(fresh, explained, strict=True):
            self.entries.pop(position, None)  # of damaged files
            if entries := self._write(position, found):
                rows[position], self.entries[position] = found, entries
        self.journal.add({position: self.entries[position] for position in fresh if position in rows})
        if len(self.methods) > 1:
            for position in sorted(rows):
                self.grids.add(self.names[position], rows[position], self._by_method(position))

    def report(self) -> ExplainReport:
        """Draw the last grid; return the entries in the images' order, and what failed."""
        self.grids.close()
        for failure in self.grids.failures:
            self._fail(failure)
        entries = [each for position in sorted(self.entries) for each in self.entries[position]]
        return ExplainReport(entries, self.failures)

    def _write(self, position: int, rows: Rows) -> Entries | None:
        """Write the files of an image; None if it cannot be drawn."""
        try:
            pictures = [draw_explanations(row) for row in rows]
        except Exception as error:
            self._fail(failure_of("draw", rows[0][0].file, error))
            return None
        for each in chain.from_iterable(rows):
            if each.note:
                logger.warning("%s: %s, %s of %s", each.file, each.note, each.method_title, each.class_name)
        return list(
            chain.from_iterable(
                write_explanations_of_image(self.out, f"{folder}{self.names[position]}", row, picture)
                for folder, row, picture in zip(self.folders, rows, pictures, strict=True)
            )
        )

    def _restored(self, position: int, item: Sequence[PreparedImage]) -> Rows | None:
        """Return the explanations that an interrupted run wrote; None if there are none, or files are damaged."""
        if position not in self.journal.done:
            return None
        try:
            return [
                [restore_explanation(entry, self.out, prepared.image) for entry in entries]
                for entries, prepared in zip(self._by_method(position), item, strict=True)
            ]
        except (OSError, ValueError, EOFError, TypeError):
            return None

    def _by_method(self, position: int) -> list[Entries]:
        """Return the entries of an image, a list for each method."""
        entries = self.entries[position]
        count = len(entries) // len(self.methods)
        return [entries[start : start + count] for start in range(0, len(entries), count)]

    def _fail(self, failure: Failure) -> None:
        logger.warning(failure.reason)
        self.failures.append(failure)


def _claim(out: Path, folders: Sequence[str], names: Sequence[str], classes: int) -> None:
    """Note which files are written, before they are.

    Raises:
        InputError: If the folder holds files of these names that no run wrote.
    """
    before = claimed(out)
    if len(folders) > 1:
        outputs = [*folders, *grid_names(names, classes)]
    else:
        new = set(names)  # the classes of maps are not known yet
        maps = [found for found in (_MAP.fullmatch(path.name) for path in out.iterdir()) if found and found[1] in new]
        strange = [found[0] for found in maps if f"{found[1]}.overlay.png" not in before]
        outputs = [*(f"{name}.overlay.png" for name in names), *strange]
    claim(out, [MANIFEST, *outputs], known=not before and _is_manifest(out / MANIFEST))


def _is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of explanations, as one of a folder in which nothing notes whose files are there."""
    try:
        entries = json.loads(path.read_bytes())
        return bool(entries) and all({"map", "overlay", "versions"} <= entry.keys() for entry in entries)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False


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
