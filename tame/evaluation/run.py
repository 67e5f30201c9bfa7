"""Evaluate maps on a list of images; an interrupted run resumes after its last batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.classifier import FrozenClassifier
from tame.data.dataset import Sample
from tame.evaluation.batch import BatchEvaluation, Maps
from tame.evaluation.folder import RunFolder
from tame.evaluation.processes import Process
from tame.evaluation.records import SUMMARY, Summary, read_summary
from tame.evaluation.request import EvaluationRequest
from tame.metrics import perturbations_of, settings_of
from tame.utils.checks import shown
from tame.utils.processes import end_with_parent
from tame.utils.versions import versions


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and where the results go.

    Attributes:
        maps_of: Explains the predicted class of each image.
        classifier: The classifier, on the device to compute on.
        dataset: Samples of ``image`` (C, H, W) in [0, 1], ``label`` with -1 for unknown, and ``index``, the position.
        request: Images, metrics, preset, and how to compute.
        provenance: Everything else that the numbers depend on, as JSON values: ``method``, ``preset``, ``overrides``,
            ``list``, ``list_sha256`` and, if there are any, ``checkpoint``, ``checkpoint_sha256``, ``arguments``,
            ``maps``.
        out: Folder of the run.
        title: What the progress bar calls it.
    """

    maps_of: Maps
    classifier: FrozenClassifier
    dataset: Dataset[Sample]
    request: EvaluationRequest
    provenance: Mapping[str, Any]
    out: Path
    title: str = ""

    def settings(self) -> dict[str, Any]:
        """Return everything that the numbers depend on, as JSON values."""
        settings = {
            **self.provenance,
            "only": self.request.only,
            "precision": self.request.settings.precision,
            "backbone": self.classifier.spec.name,
            "weights": self.classifier.weights,
            "weights_sha256": self.classifier.weights_hash,
            "layers": [] if self.classifier.no_layers else list(self.classifier.layers),
            **({} if self.classifier.spec.score == "softmax" else {"score": self.classifier.spec.score}),
            "preprocessing": asdict(self.classifier.spec.preprocessing),
            **settings_of(self.request.metrics),
            "versions": versions(),
        }
        result: dict[str, Any] = json.loads(json.dumps(settings, default=_as_text))
        return result


def run_evaluations(evaluations: Sequence[Evaluation], process: Process | None = None) -> list[Summary]:
    """Evaluate maps of one or several methods; leave a row per image and a summary in the folder of each.

    Each batch is written atomically. A run that is started again with the same settings in the same folder resumes
    after the last batch, with the rows per pass that it had found, and ends with the same numbers; a finished run is
    skipped. Every process evaluates its own images, k * processes + rank, and writes its own parts. All folders are
    locked until the end.

    Args:
        evaluations: The evaluations.
        process: Which of several processes this one is; None: the only one.

    Returns:
        The summaries, also in ``summary.json``.

    Raises:
        InputError: Before any work, if another process writes to a folder, or if it holds a run with other settings or
            files that no run wrote; for no images, a batch size below 1, or rows per pass below 1; at the end, if no
            image counts.
    """
    process = process or Process()
    for one in evaluations:
        one.request.check()
    folders = [RunFolder(one.out, one.request.images.files) for one in evaluations]
    settings = [one.settings() for one in evaluations]
    with ExitStack() as stack:
        with process.leading() as leads:
            for one, folder, recorded in zip(evaluations, folders, settings, strict=True):
                if leads:
                    stack.enter_context(folder.opened(recorded, one.request.settings.resume))
        finished = [folder.finished for folder in folders]
        done = [folder.done() for folder in folders]
        process.wait()  # all have seen what is done before any of them adds to it
        quiet = process.rank > 0 or not any(one.request.settings.progress for one in evaluations)
        total, before = (sum(map(len, each)) for each in ((folder.files for folder in folders), done))
        with tqdm(total=total, initial=before, unit="image", disable=quiet) as bar:
            for index, (one, folder) in enumerate(zip(evaluations, folders, strict=True)):
                if finished[index]:
                    continue
                of_several = f" ({index + 1} of {len(folders)})" if len(folders) > 1 else ""
                bar.set_description(f"{shown(one.title)}{of_several}")
                _evaluate(one, folder, done[index], process, bar)
                process.wait()
                with process.leading() as leads:
                    if leads:
                        folder.finish(settings[index])
    return [read_summary(folder.path / SUMMARY) for folder in folders]


def _evaluate(one: Evaluation, folder: RunFolder, done: Set[int], process: Process, bar: tqdm) -> None:
    """Evaluate the images of a process whose rows are not there."""
    settings, files, device = one.request.settings, folder.files, one.classifier.mean.device
    rows = folder.pass_rows(process.rank, settings.pass_rows, device)
    evaluate_batch = BatchEvaluation(
        one.maps_of,
        one.classifier,
        perturbations_of(one.request.metrics),
        files,
        rows,
        one.request.only,
        settings.precision,
    )
    loader = DataLoader(
        one.dataset,
        batch_sampler=_waiting(done, process, len(files), settings.batch_size),
        num_workers=settings.num_workers,
        worker_init_fn=end_with_parent,
        pin_memory=torch.cuda.is_available(),
    )
    left = len(files) - len(done)
    with torch.inference_mode():
        if process.rank == 0 and not folder.knows_work:
            folder.write_work(evaluate_batch.work(default_collate([one.dataset[0]])))
        for batch in loader:
            found = rows.rows
            part = evaluate_batch(batch)
            if rows.rows != found:
                folder.remember_rows(process.rank, rows)
            folder.add(process.rank, part)
            evaluated = min(left, len(part) * process.count)  # the other processes are about as far
            left -= evaluated
            bar.update(evaluated)
    bar.update(left)


def _waiting(done: Set[int], process: Process, images: int, batch_size: int) -> list[list[int]]:
    """Return the batches of a process that are not done, as positions in the list."""
    mine = range(process.rank, images, process.count)
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return [fresh for batch in batches if (fresh := [index for index in batch if index not in done])]


def _as_text(value: object) -> str:
    """Return the text of a value that JSON cannot hold: the name of a function, otherwise its ``str``."""
    return str(getattr(value, "__qualname__", value))
