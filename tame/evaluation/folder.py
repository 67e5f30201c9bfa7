"""The folder of a run: its settings, and the parts that an interrupted run resumes from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tame.evaluation.records import ROWS, SUMMARY, read_rows, upgraded
from tame.metrics import METRICS
from tame.perturbations import PassRows
from tame.utils.checks import InputError
from tame.utils.io import check_same_settings, known_then, write_json

SETTINGS = "settings.json"
PARTS = "parts"
LOOKS = "looks"
"""Maps of a run that a report shows."""

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

    Raises:
        InputError: If the path, or one above it, is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if file := next((each for each in (path, *path.parents) if each.exists() and not each.is_dir()), None):
            raise InputError(f"expected a folder to write the results to, got {path}: {file} is a file")

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return (self.path / SUMMARY).is_file() and (self.path / ROWS).is_file()

    def claim(self, settings: dict[str, Any]) -> None:
        """Write the settings of a new run, or check that they are those of the run in the folder.

        Raises:
            InputError: If the folder holds rows that were computed with other settings, saying what differs.
        """
        path = self.path / SETTINGS
        if self.parts() or (self.path / SUMMARY).is_file():  # rows were computed
            _check_settings(path, settings)
        else:
            write_json(path, settings)

    def start_over(self) -> None:
        """Remove the files of the run in the folder, and nothing else."""
        for folder in (self.path / PARTS, self.path / LOOKS):
            if folder.is_dir():
                shutil.rmtree(folder)
        for name in (SUMMARY, ROWS, SETTINGS):  # the settings last: rows are never without theirs
            (self.path / name).unlink(missing_ok=True)

    def parts(self, rank: int | str = "*") -> list[Path]:
        """Return the finished batches, of one process or of all."""
        return sorted((self.path / PARTS).glob(f"{rank}-*.csv"))

    def part(self, rank: int, number: int) -> Path:
        """Return the file of a batch of a process."""
        return self.path / PARTS / f"{rank}-{number:06d}.csv"

    def remove_parts(self) -> None:
        """Remove the parts of a complete run: its rows are joined in one file."""
        if (self.path / PARTS).is_dir():
            shutil.rmtree(self.path / PARTS)

    def done(self) -> set[int]:
        """Return the positions of the images whose rows are computed."""
        return {int(index) for part in self.parts() for index in read_rows(part).columns["index"]}

    @property
    def knows_work(self) -> bool:
        """Whether the relative cost of an explanation is computed."""
        return self._work_file.is_file()

    def write_work(self, work: float | None) -> None:
        """Remember the relative cost of an explanation."""
        write_json(self._work_file, {"work": work})

    def read_work(self) -> float | None:
        """Return the relative cost of an explanation; None where it is unknown."""
        return json.loads(self._work_file.read_text(encoding="utf-8"))["work"] if self.knows_work else None

    def pass_rows(self, rank: int, asked: int | None, device: str | Any) -> PassRows:
        """Return the rows per pass: those that an interrupted run had found, otherwise those asked for."""
        file = self._rows_file(rank)
        if file.is_file():
            asked = json.loads(file.read_text(encoding="utf-8"))["rows"]
        rows = PassRows(asked, device)
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


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Check that the settings on disk equal these, also if an earlier version wrote them with other keys."""
    began: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if upgraded(began) == known_then(began, settings):
        return
    if reason := _incomparable(began, settings):
        raise InputError(
            f"{path.parent} holds a run of another version of this package, whose settings cannot be compared: "
            f"{reason}. Choose another output folder (out), or start over (resume false)"
        )
    check_same_settings(path, settings)


def _incomparable(began: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return why settings must be of another version of this package; None for the same version."""
    old, new = ((each.get("versions") or {}).get("tame", "unknown") for each in (began, settings))
    if old != new:
        return f"tame {old}, not {new}"
    of_metrics = {one.name for name in METRICS.names() for one in fields(METRICS.get(name))}
    known = settings.keys() | _PROVENANCE | _SOMETIMES | of_metrics
    if strange := sorted(began.keys() - known):
        return (
            f"its setting{'s' * (len(strange) > 1)} {', '.join(strange)} {'are' if len(strange) > 1 else 'is'} unknown"
        )
    return None
