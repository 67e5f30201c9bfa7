"""Folders of images and lists: how many there are, whether a sample can be read, and whether the labels look right."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tame.data import ImageFolders, load_image, read_list, resolve_folders, walk_images
from tame.data.folders import resolve_lists
from tame.data.lists import ImageEntry
from tame.health.findings import Finding
from tame.utils.checks import InputError

_SYNSET = re.compile(r"n\d{8}")  # folders of ImageNet, one per class
_ANY_LABEL = 10**9
_NAME_DATA = "name a folder with --data, or in DATA (environment or .env)"


@dataclass(frozen=True)
class ImagesToCheck:
    """The images and lists that commands would use, see the arguments of `tame.train`.

    Attributes:
        data: Folder of images.
        lists: Folder of lists.
        num_classes: Labels are below this number; None: it is not known.
        sample: How many images of each list, or folder without lists, are opened.
        seed: Seed of the sample.
    """

    data: str | Path | None
    lists: str | Path | None
    num_classes: int | None
    sample: int
    seed: int

    def check(self) -> Iterator[Finding]:
        """Count the images, compare the lists with the files, open a sample, and look at the labels."""
        try:
            folders = resolve_folders(self.data)
        except InputError as error:
            state, about = ("note", "DATA") if self.data is None else ("problem", str(self.data))
            yield Finding("images", about, state, str(error), _NAME_DATA)  # type: ignore[arg-type] # one of the states
            return
        try:
            folder = resolve_lists(self.lists)
        except InputError as error:
            yield Finding("lists", str(self.lists or "LIST"), "problem", str(error), "name a folder with --lists")
            return
        files = sorted(folder.glob("*.txt")) if folder else []
        if not files:
            where = f"{folder} holds no list (.txt)" if folder else "no folder of lists is named (--lists, LIST)"
            yield Finding("lists", str(folder or "LIST"), "note", f"{where}: all images of the folder are used")
            for root in dict.fromkeys(folders):
                yield from self._folder(root)
            return
        read: dict[Path, list[ImageEntry]] = {}
        for file in files:
            yield from self._list(file, folders, read)
        yield from _shared(read)

    def _folder(self, root: Path) -> Iterator[Finding]:
        try:
            entries = walk_images(root)
        except InputError as error:
            yield Finding("images", str(root), "problem", str(error), _NAME_DATA)
            return
        yield Finding("images", str(root), "ok", f"{len(entries)} images")
        yield from self._sample(str(root), entries)

    def _list(self, file: Path, folders: ImageFolders, read: dict[Path, list[ImageEntry]]) -> Iterator[Finding]:
        root = folders.train if file.name.lower().startswith("train") else folders.val
        try:
            entries = read_list(file, root, self.num_classes or _ANY_LABEL)
        except InputError as error:
            advice = f"correct the list, or name the folder with --data: its paths are relative to {root}"
            yield Finding("lists", str(file), "problem", str(error), advice)
            return
        read[file] = entries
        labels = [entry.label for entry in entries if entry.label is not None]
        span = f"labels {min(labels)} to {max(labels)}, {len(set(labels))} different" if labels else "no labels"
        unknown = f", {len(entries) - len(labels)} without" if labels and len(labels) < len(entries) else ""
        yield Finding("lists", str(file), "ok", f"{len(entries)} images in {root}; {span}{unknown}")
        yield from _labels(file, entries, labels)
        yield from self._sample(str(file), entries)

    def _sample(self, about: str, entries: Sequence[ImageEntry]) -> Iterator[Finding]:
        """Open a sample of the images."""
        chosen = random.Random(self.seed).sample(entries, min(self.sample, len(entries)))
        failures = []
        for path, _ in chosen:
            try:
                load_image(path)
            except InputError as error:
                failures.append(str(error))
        if failures:
            found = f"{len(failures)} of {len(chosen)} sampled images cannot be read, such as: {failures[0]}"
            yield Finding("images", about, "problem", found, "replace these files, or take them out of the list")
        elif chosen:
            yield Finding("images", about, "ok", f"{len(chosen)} of {len(entries)} images were opened")


def _labels(file: Path, entries: Sequence[ImageEntry], labels: Sequence[int]) -> Iterator[Finding]:
    """Look for labels that are counted from 1, and for folders of ImageNet whose images have several labels."""
    different = set(labels)
    if len(different) > 1 and min(different) == 1 and max(different) == len(different):
        found = f"the labels are 1 to {len(different)}, and classes are counted from 0"
        yield Finding("lists", str(file), "problem", found, "subtract 1 from every label, unless class 0 has no images")
    by_folder: dict[str, set[int]] = defaultdict(set)
    for path, label in entries:
        if label is not None and _SYNSET.fullmatch(path.parent.name):
            by_folder[path.parent.name].add(label)
    mixed = sorted(name for name in by_folder if len(by_folder[name]) > 1)
    if mixed:
        values = ", ".join(map(str, sorted(by_folder[mixed[0]])[:5]))
        found = f"images of {len(mixed)} folders have several labels, such as {mixed[0]} with {values}"
        yield Finding("lists", str(file), "problem", found, "a folder of ImageNet is one class: correct the labels")


def _shared(read: Mapping[Path, Sequence[ImageEntry]]) -> Iterator[Finding]:
    """Look for images of a training list that stand in another list too."""
    training = [file for file in read if file.name.lower().startswith("train")]
    known = {entry.path for file in training for entry in read[file]}
    for file, entries in read.items():
        both = 0 if file in training else sum(entry.path in known for entry in entries)
        if both:
            found = f"{both} of {len(entries)} images are training images too: numbers of them are too good"
            yield Finding("lists", str(file), "note", found, "take them out of one of the lists")
