"""Evaluate maps on a list of images; an interrupted run resumes after its last batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation.batch import BatchEvaluation, Maps
from tame.evaluation.folder import RunFolder
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
from tame.evaluation.request import EvaluationRequest
from tame.metrics import perturbations_of, settings_of
from tame.utils.processes import end_with_parent
from tame.utils.versions import versions


def run_evaluation(
    maps_of: Maps,
    classifier: FrozenClassifier,
    dataset: Dataset[Sample],
    request: EvaluationRequest,
    provenance: Mapping[str, Any],
    out: Path,
    process: Process | None = None,
) -> Summary:
    """Evaluate maps as a request says and leave a row per image and a summary in ``out``.

    Each batch is written atomically. A run that is started again with the same settings in the same folder resumes
    after the last batch, with the rows per pass that it had found, and ends with the same numbers; a finished run is
    skipped. Every process evaluates its own images, k * processes + rank, and writes its own parts.

    Args:
        maps_of: Explains the predicted class of each image.
        classifier: The classifier, on the device to compute on.
        dataset: Samples of ``image`` (C, H, W) in [0, 1], ``label`` with -1 for unknown, and ``index``, the position.
        request: Images, metrics, preset, and how to compute.
        provenance: Everything else that the numbers depend on, as JSON values: ``method``, ``preset``, ``overrides``,
            ``list``, ``list_sha256`` and, if there are any, ``checkpoint``, ``checkpoint_sha256``, ``arguments``,
            ``maps``.
        out: Folder of the run.
        process: Which of several processes this one is; None: the only one.

    Returns:
        The summary, also in ``summary.json``.

    Raises:
        InputError: If ``out`` holds a run with other settings, saying what differs; for no images, a batch size below
            1, or rows per pass below 1; at the end, if no image counts.
    """
    process, settings = process or Process(), request.settings
    request.check()
    folder, files = RunFolder(out), request.images.files
    recorded = _recorded(classifier, request, provenance)
    with process.leading() as leads:
        if leads and not settings.resume:
            folder.start_over()
        if leads:
            folder.claim(recorded)
    if folder.finished:
        process.wait()  # all have seen it before the parts are removed
        if process.rank == 0:
            folder.remove_parts()
        return read_summary(out / SUMMARY)
    rows = folder.pass_rows(process.rank, settings.pass_rows, classifier.mean.device)
    evaluate_batch = BatchEvaluation(
        maps_of, classifier, perturbations_of(request.metrics), files, rows, request.only, settings.precision
    )
    loader = DataLoader(
        dataset,
        batch_sampler=_waiting(folder, process, len(files), settings.batch_size),
        num_workers=settings.num_workers,
        worker_init_fn=end_with_parent,
        pin_memory=torch.cuda.is_available(),
    )
    numbers = count(len(folder.parts(process.rank)))
    process.wait()  # all have seen what is done before any of them adds to it
    title, quiet = str(provenance.get("method", "evaluate")), not (settings.progress and process.rank == 0)
    with torch.inference_mode(), tqdm(loader, title, unit="batch", disable=quiet) as bar:
        for batch in bar:
            if process.rank == 0 and not folder.knows_work:
                folder.write_work(evaluate_batch.work(batch))
            found = rows.rows
            part = evaluate_batch(batch)
            if rows.rows != found:
                folder.remember_rows(process.rank, rows)
            write_rows(folder.part(process.rank, next(numbers)), part)
    process.wait()
    with process.leading() as leads:
        if leads:
            join_rows(folder.parts(), out / ROWS)
            write_summary(out / SUMMARY, summarise(read_rows(out / ROWS), recorded, folder.read_work()))
            folder.remove_parts()
    return read_summary(out / SUMMARY)


def _waiting(folder: RunFolder, process: Process, images: int, batch_size: int) -> list[list[int]]:
    """Return the batches of a process that are not done, as positions in the list."""
    done, mine = folder.done(), range(process.rank, images, process.count)
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return [fresh for batch in batches if (fresh := [index for index in batch if index not in done])]


def _recorded(
    classifier: FrozenClassifier, request: EvaluationRequest, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that the numbers depend on, as JSON values."""
    settings = {
        **provenance,
        "only": request.only,
        "precision": request.settings.precision,
        "backbone": classifier.spec.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_hash,
        "layers": [] if classifier.no_layers else list(classifier.layers),
        **({} if classifier.spec.score == "softmax" else {"score": classifier.spec.score}),
        **settings_of(request.metrics),
        "versions": versions(),
    }
    result: dict[str, Any] = json.loads(json.dumps(settings, default=_as_text))
    return result


def _as_text(value: object) -> str:
    """Return the text of a value that JSON cannot hold: the name of a function, otherwise its ``str``."""
    return str(getattr(value, "__qualname__", value))
