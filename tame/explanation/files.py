"""Explain many image files: overlays, maps, and one manifest."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no type information

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.data import Crop, load_image, walk_images
from tame.explanation.one import Method, Seen, explain_batch, see
from tame.explanation.result import write_image
from tame.files import replacing
from tame.types import Explainer

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


class _Photographs(Dataset["Seen | Failure"]):
    """Files as classifiers see them; an unreadable one is a `Failure`, so that the others go on."""

    def __init__(self, files: Sequence[Path], crop: Crop) -> None:
        self.files = files
        self.crop = crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Seen | Failure:
        file = self.files[index]
        try:
            seen = see(load_image(file), self.crop, str(file))
        except InputError as error:
            return Failure(str(file), str(error))
        seen.photo.thumbnail((_DISPLAY, _DISPLAY))
        return seen


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
    by = Method(classifier, explainer, method, preset)
    paths, out = [Path(file) for file in files], Path(out)
    _check_request(paths, classifier, targets, top, batch_size, num_workers)
    _make_folder(out)
    data = _Photographs(paths, Crop.of(classifier.spec.preprocessing))
    loader = DataLoader(data, batch_size, num_workers=num_workers, collate_fn=list)
    names = iter(_output_names(paths))
    entries: list[dict[str, Any]] = []
    failures: list[Failure] = []
    with tqdm(total=len(paths), desc="explain", unit="image", disable=None if progress else True) as bar:
        for batch in loader:
            named = [(next(names), item) for item in batch]
            readable = [(name, item) for name, item in named if isinstance(item, Seen)]
            for failure in (item for item in batch if isinstance(item, Failure)):
                bar.clear()  # else the sentence stands behind the bar
                logger.warning(failure.reason)
                failures.append(failure)
            explained = explain_batch([seen for _, seen in readable], by, targets, top)
            for (name, _), explanations in zip(readable, explained, strict=True):
                entries += write_image(out, name, explanations)
            bar.update(len(batch))
    with replacing(out / "manifest.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return ExplainReport(entries, failures)


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
