"""Measure an explainer on a list of images; an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation.batch import BatchMeasurement, Maps
from tame.evaluation.plan import Plan
from tame.evaluation.processes import Process
from tame.evaluation.records import (
    ROWS,
    SUMMARY,
    Summary,
    join_rows,
    read_rows,
    read_summary,
    summarise,
    write_rows,
    write_summary,
)
from tame.perturbations import PassRows
from tame.utils.checks import InputError
from tame.utils.io import check_same_settings, write_json
from tame.utils.versions import versions

SETTINGS = "settings.json"
PARTS = "parts"
LOOKS = "looks"  # maps that a report shows


def run_evaluation(
    maps_of: Maps,
    classifier: FrozenClassifier,
    dataset: Dataset[Sample],
    plan: Plan,
    *,
    out: Path,
    provenance: Mapping[str, Any],
    files: Sequence[str],
    batch_size: int = 32,
    pass_rows: int = 0,
    num_workers: int = 0,
    only: Literal["all", "correct"] = "all",
    precision: str = "32",
    process: Process | None = None,
    progress: bool = True,
    resume: bool = True,
) -> Summary:
    """Measure maps as ``plan`` says and leave a row per image and a summary in ``out``.

    Each batch is one atomic part on disk. A run that is started again with the same settings in the same folder
    continues after the last part, with the rows per pass it had found, and ends with the same numbers; a finished
    one is not computed again. Every process takes its own images, k * processes + rank, and writes its own parts.

    Args:
        maps_of: Explains the model truth of each image.
        classifier: The classifier, on the device to compute on.
        dataset: Samples of ``image`` (C, H, W) in [0, 1], ``label`` with -1 for unknown, and ``index``, the position.
        plan: What is measured.
        out: Folder of the run.
        provenance: What else the numbers depend on, as JSON values: ``method``, ``preset``, ``overrides`` (a dict,
            changes of the preset), ``list``, ``list_sha256``, ``cam_layer``, ``checkpoint``, ``checkpoint_sha256``.
        files: Name of each image of the list, in order.
        batch_size: Images per batch.
        pass_rows: Perturbed images per pass through the classifier; 0: as many as fit. Neither changes the numbers.
        num_workers: Processes that read images; 0 reads in the main process.
        only: ``correct`` leaves the images that the classifier gets wrong out of the metrics; they need labels.
        precision: ``32``, ``16-mixed`` or ``bf16-mixed``, of all passes.
        process: Which of several this one is; None: the only one.
        progress: Show a progress bar.
        resume: Continue or reuse what ``out`` holds; False starts over.

    Returns:
        The summary, also in ``summary.json``.

    Raises:
        InputError: If ``out`` holds a run with other settings, saying what differs; for no images, a batch size below
            1, or negative rows per pass; at the end, if no image counts.
    """
    process = process or Process()
    if batch_size < 1 or num_workers < 0:
        raise InputError(f"expected batch_size >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")
    if not files:
        raise InputError("expected at least one image to evaluate, got none")
    PassRows(pass_rows)  # fail before any work
    settings = _settings(classifier, plan, {**provenance, "only": only, "precision": precision})
    with process.leading() as leads:
        if leads and not resume:
            _clear(out)
        if leads:
            _claim(out, settings)
    if (out / SUMMARY).is_file() and (out / ROWS).is_file():
        summary = read_summary(out / SUMMARY)
        process.wait()  # before the parts go
        if process.rank == 0:
            shutil.rmtree(out / PARTS, ignore_errors=True)
        return summary
    rows = _pass_rows(out, process.rank, pass_rows, classifier)
    measure = BatchMeasurement(maps_of, classifier, plan.perturbations(), files, rows, only, precision)
    done, numbers = _done(out), count(len(_parts(out, process.rank)))
    mine = range(process.rank, len(files), process.count)
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    waiting = [fresh for batch in batches if (fresh := [index for index in batch if index not in done])]
    loader = DataLoader(dataset, batch_sampler=waiting, num_workers=num_workers, pin_memory=torch.cuda.is_available())
    process.wait()  # all have seen what is done before anyone adds to it
    title, quiet = str(provenance.get("method", "evaluate")), not (progress and process.rank == 0)
    with torch.inference_mode(), tqdm(loader, title, unit="batch", disable=quiet) as bar:
        for batch in bar:
            if process.rank == 0 and not _work_file(out).is_file():
                write_json(_work_file(out), {"work": measure.work(batch)})
            found = rows.rows
            part = measure(batch)
            if rows.rows != found:
                _remember_rows(out, process.rank, rows)
            write_rows(_part(out, process.rank, next(numbers)), part)
    process.wait()
    with process.leading() as leads:
        if leads:
            join_rows(_parts(out), out / ROWS)
            write_summary(out / SUMMARY, summarise(read_rows(out / ROWS), settings, _work(out)))
            shutil.rmtree(out / PARTS)
    return read_summary(out / SUMMARY)


def _settings(classifier: FrozenClassifier, plan: Plan, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the numbers depend on, as JSON gives it back."""
    settings = {
        **provenance,
        "backbone": classifier.spec.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_hash,
        "layers": list(classifier.layers),
        **({} if classifier.spec.score == "softmax" else {"score": classifier.spec.score}),
        **plan.settings(),
        "versions": versions(),
    }
    result: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return result


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a new run, or check that they are those of the run in ``out``."""
    path = out / SETTINGS
    if _parts(out) or (out / SUMMARY).is_file():  # something is measured
        check_same_settings(path, settings)
    else:
        _clear(out)
        write_json(path, settings)


def _clear(out: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for folder in (out / PARTS, out / LOOKS):
        if folder.is_dir():
            shutil.rmtree(folder)
    for name in (SUMMARY, ROWS, SETTINGS):  # the settings last: what is measured belongs to some
        (out / name).unlink(missing_ok=True)


def _part(out: Path, rank: int, number: int) -> Path:
    return out / PARTS / f"{rank}-{number:06d}.csv"


def _parts(out: Path, rank: int | str = "*") -> list[Path]:
    return sorted((out / PARTS).glob(f"{rank}-*.csv"))


def _done(out: Path) -> set[int]:
    """Return the positions of the images that are already measured."""
    return {int(index) for part in _parts(out) for index in read_rows(part).columns["index"]}


def _work_file(out: Path) -> Path:
    return out / PARTS / "work.json"


def _work(out: Path) -> float | None:
    """Return the work of an explanation, if it is known: all runs of before did not measure it."""
    file = _work_file(out)
    return json.loads(file.read_text(encoding="utf-8"))["work"] if file.is_file() else None


def _rows_file(out: Path, rank: int) -> Path:
    return out / PARTS / f"{rank}-pass-rows.json"


def _pass_rows(out: Path, rank: int, asked: int, classifier: FrozenClassifier) -> PassRows:
    """Return the rows per pass: those that an interrupted run had found, else those asked for."""
    file = _rows_file(out, rank)
    if file.is_file():
        asked = json.loads(file.read_text(encoding="utf-8"))["rows"]
    rows = PassRows(asked, classifier.mean.device)
    _remember_rows(out, rank, rows)
    return rows


def _remember_rows(out: Path, rank: int, rows: PassRows) -> None:
    write_json(_rows_file(out, rank), {"rows": rows.rows})
