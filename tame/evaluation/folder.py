"""The folder of a run: its settings, and the parts that an interrupted run resumes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from tame.evaluation.records import (
    SUMMARY,
    Run,
    Summary,
    check_rows,
    read_summary,
    rows_hash,
    summarise,
    upgraded,
    write_summary,
)
from tame.evaluation.rows import DELETE, ROWS, Row, damaged, join_rows, read_rows, write_rows
from tame.metrics import METRICS
from tame.perturbations import PassRows
from tame.utils.checks import InputError, shown
from tame.utils.folders import check_kind, claim, claimed, is_tidy, locked
from tame.utils.io import check_same_settings, known_then, read_json, write_json

SETTINGS = "settings.json"
PARTS = "parts"
LOOKS = "looks"
"""Maps of a run that a report shows."""

_NAMES = (ROWS, SUMMARY, SETTINGS, f"{PARTS}/", f"{LOOKS}/")
_PART = r"(\d+)-(\d+)\.csv"
_OURS = {PARTS: rf"{_PART}|work\.json|\d+-pass-rows\.json", LOOKS: r"\d+-\d+\.npy"}  # what may be removed in them
_PROVENANCE = {"method", "preset", "overrides", "list", "list_sha256"}
_SOMETIMES = {
    "checkpoint",
    "checkpoint_sha256",
    "arguments",
    "maps",
    "maps_sha256",
    "code_sha256",
    "score",
    "preprocessing",
}  # settings that not every run has


class RunFolder:
    """The folder of a run while it is computed; every file in it is written atomically.

    Args:
        path: The folder.
        files: Name of each image of the list, in order.
    """

    def __init__(self, path: Path, files: Sequence[str]) -> None:
        self.path, self.files = path, list(files)
        self._check_lock: Callable[[], None] = lambda: None
        self._numbers: dict[int, Iterator[int]] = {}  # of the next part of each process

    @contextmanager
    def opened(self, settings: Mapping[str, Any], resume: bool) -> Iterator[None]:
        """Begin or resume a run with these settings, while no other process does.

        A finished run is only read, so that its folder need not be writable.

        Raises:
            InputError: If another process writes to the folder; if it holds files of the same names that no run
                wrote, settings of another kind of run, or rows that were computed with other settings, saying what
                differs.
        """
        check_kind(self.path / SETTINGS, {"method", "metrics"})
        settled = resume and self._is_ours() and not (self.path / PARTS).exists() and is_tidy(self.path)
        if settled and self.finished:
            _check_settings(self.path / SETTINGS, settings)
            yield
            return
        with locked(self.path) as self._check_lock:
            claim(self.path, _NAMES, known=self._is_ours())
            if not resume:
                self._start_over()
            if self._sources() or (self.path / SUMMARY).is_file():  # rows were computed
                _check_settings(self.path / SETTINGS, settings)
            else:
                write_json(self.path / SETTINGS, settings)
            if self.finished:
                self._remove(PARTS)
            yield

    @property
    def finished(self) -> bool:
        """Whether the run is complete: its rows are exactly those of the list's images.

        Raises:
            InputError: If a file is damaged.
        """
        if not ((self.path / SUMMARY).is_file() and (self.path / ROWS).is_file()):
            return False
        run = Run(self.path, read_summary(self.path / SUMMARY), read_rows(self.path / ROWS))
        check_rows(run)
        return run.rows.files == self.files and self.done() == set(range(len(self.files)))

    def done(self) -> set[int]:
        """Return the positions of the images whose rows are computed.

        Raises:
            InputError: If a file is damaged, or holds rows of other images than those of the list.
        """
        done: set[int] = set()
        for source in self._sources():
            rows = read_rows(source)
            positions = rows.columns["index"].astype(int).tolist()
            if any(self.files[at : at + 1] != [file] for at, file in zip(positions, rows.files, strict=True)):
                raise damaged(source, "it holds rows of images that are not in the list")
            done.update(positions)
        return done

    def add(self, rank: int, rows: Sequence[Row]) -> None:
        """Keep the rows of a batch of a process."""
        if rank not in self._numbers:
            names = (re.fullmatch(_PART, part.name) for part in self._parts())
            numbers = [int(name[2]) for name in names if name and int(name[1]) == rank]
            self._numbers[rank] = count(max(numbers, default=-1) + 1)
        write_rows(self.path / PARTS / f"{rank}-{next(self._numbers[rank]):06d}.csv", rows)

    def finish(self, settings: dict[str, Any]) -> Summary:
        """Join the rows, and return their summary, which is written last.

        Raises:
            InputError: If images are missing, if none counts, or if another process has taken over the folder.
        """
        self._check_lock()
        (self.path / SUMMARY).unlink(missing_ok=True)
        join_rows(self._sources(), self.path / ROWS)
        if missing := len(self.files) - len(self.done()):
            raise InputError(
                f"{shown(self.path)} lacks the rows of {missing} of {len(self.files)} images: "
                "start the same evaluation again"
            )
        summary = summarise(read_rows(self.path / ROWS), settings, self.read_work())
        summary = replace(summary, rows_sha256=rows_hash(self.path))
        write_summary(self.path / SUMMARY, summary)
        self._remove(PARTS)
        return summary

    @property
    def knows_work(self) -> bool:
        """Whether the relative cost of an explanation is computed."""
        return self._work_file.is_file()

    def write_work(self, work: float | None) -> None:
        """Remember the relative cost of an explanation."""
        write_json(self._work_file, {"work": work})

    def read_work(self) -> float | None:
        """Return the relative cost of an explanation; None where it is unknown."""
        return _kept(self._work_file, "work")

    def pass_rows(self, rank: int, asked: int | None, device: str | Any) -> PassRows:
        """Return the rows per pass: those that an interrupted run had found, otherwise those asked for."""
        file = self._rows_file(rank)
        if file.is_file() and ((kept := _kept(file, "rows")) is None or kept < 1 or kept % 1):
            raise damaged(file, f"it holds {kept} rows")
        rows = PassRows(int(kept) if file.is_file() and kept else asked, device)
        self.remember_rows(rank, rows)
        return rows

    def remember_rows(self, rank: int, rows: PassRows) -> None:
        """Remember the rows per pass that fit the memory."""
        write_json(self._rows_file(rank), {"rows": rows.rows})

    @property
    def _work_file(self) -> Path:
        return self.path / PARTS / "work.json"

    def _rows_file(self, rank: int) -> Path:
        return self.path / PARTS / f"{rank}-pass-rows.json"

    def _is_ours(self) -> bool:
        """Whether a run wrote the files in the folder, also one of an earlier version, which left no manifest."""
        if claimed(self.path) >= set(_NAMES):
            return True
        try:
            return "tame" in read_json(self.path / SETTINGS, "")["versions"]
        except (InputError, KeyError, TypeError):
            return False

    def _start_over(self) -> None:
        """Remove the files of the run in the folder, and nothing else."""
        for folder in (PARTS, LOOKS):
            self._remove(folder)
        for name in (SUMMARY, ROWS, SETTINGS):  # the settings last: rows are never without theirs
            (self.path / name).unlink(missing_ok=True)

    def _sources(self) -> list[Path]:
        """Return the files that hold rows."""
        joined = self.path / ROWS
        return [*([joined] if joined.is_file() else []), *self._parts()]

    def _parts(self) -> list[Path]:
        """Return the finished batches of all processes."""
        return sorted(path for path in (self.path / PARTS).glob("*.csv") if re.fullmatch(_PART, path.name))

    def _remove(self, name: str) -> None:
        """Remove our files in a folder, and the folder unless it holds anything else."""
        folder = self.path / name
        for file in folder.glob("*"):
            if re.fullmatch(_OURS[name], file.name):
                file.unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _kept(file: Path, name: str) -> float | None:
    """Return a number that a file keeps, None where there is none.

    Raises:
        InputError: If the file is damaged.
    """
    found = read_json(file, DELETE).get(name, "nothing") if file.is_file() else None
    if found is not None and not isinstance(found, int | float):
        raise damaged(file, f"expected a number as {name}, got {found!r}")
    return found


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Check that the settings on disk equal these, also if an earlier version wrote them with other keys."""
    began = (
        read_json(path, "Choose another output folder (out), or start over (resume false)") if path.is_file() else {}
    )
    if upgraded(began) == known_then(began, settings):
        return
    if reason := _incomparable(began, settings):
        raise InputError(
            f"{shown(path.parent)} holds a run of another version of this package, whose settings cannot be compared: "
            f"{reason}. Choose another output folder (out), or start over (resume false)"
        )
    check_same_settings(path, settings)


def _incomparable(began: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return why settings must be of another version of this package; None for the same version."""
    found = (each.get("versions") for each in (began, settings))
    old, new = (each.get("tame", "unknown") if isinstance(each, Mapping) else "unknown" for each in found)
    if old != new:
        return f"tame {old}, not {new}"
    of_metrics = {one.name for name in METRICS.names() for one in fields(METRICS.get(name))}
    known = settings.keys() | _PROVENANCE | _SOMETIMES | of_metrics
    if strange := sorted(began.keys() - known):
        return (
            f"its setting{'s' * (len(strange) > 1)} {', '.join(strange)} {'are' if len(strange) > 1 else 'is'} unknown"
        )
    return None
