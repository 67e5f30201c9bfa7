"""Which images an interrupted run has explained, so that it is resumed image by image."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tame.checkpoints.native import checkpoint_hash
from tame.explainers.base import CheckedExplainer
from tame.explainers.user_code import UserExplainer
from tame.inference.batch import Classes, NamedExplainer
from tame.inference.result import Entries
from tame.utils.code import code_hash
from tame.utils.io import open_text, write_text, writing
from tame.utils.versions import versions

JOURNAL = ".tame-explained.jsonl"

logger = logging.getLogger("tame")


class _Image(NamedTuple):
    """An image, as it was when it was explained: its file, the start of its outputs' names, size and time."""

    file: str
    name: str
    state: Sequence[int] | None

    @classmethod
    def of(cls, path: Path, name: str) -> Self:
        try:
            status = path.stat()
        except (OSError, ValueError):
            return cls(str(path), name, None)
        return cls(str(path), name, [status.st_size, status.st_mtime_ns])


class Journal:
    """Notes what has been explained: a line of JSON with the settings, then one per image.

    Use it as a context, while the folder is locked. If an error leaves the context, the file stays for the next run;
    otherwise it is removed.

    Args:
        out: Folder of the run.
        settings: What the explanations depend on, as JSON values, see `journal_settings`.
        files: The images.
        names: Start of the names of each image's files in ``out``.
        resume: Whether what an interrupted run left is kept; that of a run with other settings never is.

    Attributes:
        done: By position of the image, the manifest entries that an interrupted run made. Their files exist, and the
            image has not changed since.
    """

    def __init__(
        self, out: Path, settings: Mapping[str, Any], files: Sequence[Path], names: Sequence[str], resume: bool
    ) -> None:
        self.path = out / JOURNAL
        self.settings = json.loads(json.dumps(settings, default=repr))
        self.images = [_Image.of(file, name) for file, name in zip(files, names, strict=True)]
        noted = self._read() if resume else {}
        self.done: dict[int, Entries] = {}
        for position, image in enumerate(self.images):
            found = noted.get((image.file, image.name))
            if found and found.get("state") == image.state and _complete(found.get("entries"), out):
                self.done[position] = found["entries"]
        if self.done:
            logger.info("%d of %d images are explained already.", len(self.done), len(files))

    def __enter__(self) -> Self:
        """Begin a new journal with what is still true."""
        lines = [self.settings, *(self._line(position, done) for position, done in self.done.items())]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = open_text(self.path, "a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path):
            self._file.close()
            if error is None:
                self.path.unlink()

    def add(self, explained: Mapping[int, Entries]) -> None:
        """Note a batch of images by position; their files must have been written."""
        with writing(self.path):
            self._file.write("".join(json.dumps(self._line(*each)) + "\n" for each in explained.items()))
            self._file.flush()

    def _line(self, position: int, entries: Entries) -> dict[str, Any]:
        return {**self.images[position]._asdict(), "entries": entries}

    def _read(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the lines of the images; none of a run with other settings, and no line that was cut off."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        if _parsed(lines[0]) != self.settings:
            logger.warning("%s holds an interrupted run with other settings: starting over.", self.path.parent)
            return {}
        found = [line for line in map(_parsed, lines[1:]) if isinstance(line, dict)]
        return {(str(line.get("file")), str(line.get("name"))): line for line in found}


def journal_settings(methods: Sequence[NamedExplainer], classes: Classes) -> dict[str, Any]:
    """Return what explanations depend on, apart from the images."""
    return {"methods": [_identity(by) for by in methods], "classes": asdict(classes), "versions": versions()}


def _identity(by: NamedExplainer) -> dict[str, Any]:
    explainer, arguments = by.explainer, {}
    code: Any = explainer  # that is not known by the version
    if isinstance(explainer, CheckedExplainer):
        arguments, code = dict(explainer.arguments), None if explainer.method else explainer
    if isinstance(explainer, UserExplainer):
        code = explainer.function
    checkpoint = arguments.pop("checkpoint", None)
    return {
        "method": by.method,
        "preset": by.preset,
        "backbone": by.classifier.spec.name,
        "score": by.classifier.spec.score,
        "classes": by.classifier.spec.class_names,
        "preprocessing": by.classifier.spec.preprocessing,
        "weights_sha256": by.classifier.weights_hash,
        "layers": by.classifier.layers,
        "arguments": arguments,
        "checkpoint_sha256": checkpoint_hash(checkpoint) if checkpoint else None,
        "code_sha256": code and code_hash(code),
    }


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _complete(entries: Any, out: Path) -> bool:
    """Whether a line names what it should, and its files exist."""
    try:
        return bool(entries) and all((out / each[kind]).is_file() for each in entries for kind in ("map", "overlay"))
    except (OSError, ValueError, TypeError, KeyError):
        return False
