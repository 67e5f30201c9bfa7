"""Measure an explainer on a list of images; an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.data import Batch
from tame.evaluation.records import (
    ROWS,
    SUMMARY,
    Row,
    Summary,
    join_rows,
    read_rows,
    read_summary,
    score_columns,
    summarise,
    write_rows,
    write_summary,
)
from tame.files import check_same_settings, write_json
from tame.perturb import PlainScores, UsableMaps, masked_confidences, plain_confidences, usable_maps
from tame.types import Explainer, MapScaling, MaskingKind
from tame.versions import versions

SETTINGS = "settings.json"
PARTS = "parts"


def evaluate(
    explainer: Explainer,
    classifier: FrozenClassifier,
    loader: Iterable[Batch],
    *,
    scalings: Sequence[MapScaling],
    keeps: Sequence[float] = (1.0, 0.5, 0.15),
    masking: MaskingKind,
    margin: float,
    batch_size: int,
    out: Path,
    provenance: Mapping[str, Any],
    files: Sequence[str] = (),
    progress: bool = True,
    resume: bool = True,
) -> Summary:
    """Measure AD and IC of an explainer and leave a row per image and a summary in ``out``.

    Each batch of the loader is one atomic part on disk. A run that is started again with the same settings in the
    same folder continues after the last part and ends with the same numbers; a finished one is not computed
    again. An image that the loader repeats counts once. Nothing is drawn at random.

    Args:
        explainer: Explains the model truth of each image.
        classifier: The classifier, on the device to compute on.
        loader: Batches of ``image`` (B, C, H, W) in [0, 1], ``label`` (B,) with -1 for unknown, and ``index``
            (B,), the position in the list.
        scalings: Readings of the maps.
        keeps: Fractions of the pixels to keep, each in (0, 1].
        masking: Kind of masking.
        margin: What counts as an increase in confidence.
        batch_size: Rows per masked pass through the classifier; it does not change the numbers.
        out: Folder of the run.
        provenance: What else the numbers depend on, as JSON values: ``method``, ``preset``, ``overrides`` (a dict,
            changes of the preset), ``list_sha256``, ``cam_layer``, ``checkpoint``, ``checkpoint_sha256``, ``seed``.
            Backbone, weights, versions and the arguments above are added.
        files: Name of each image of the list, in order; without them rows carry the position.
        progress: Show a progress bar.
        resume: Continue or reuse what ``out`` holds; False starts over.

    Returns:
        The summary, also in ``summary.json``.

    Raises:
        InputError: If ``out`` holds a run with other settings, saying what differs; for an empty loader; for
            scalings, keeps or a batch size that make no sense.
    """
    score_columns(scalings, keeps)  # fail before any work
    if batch_size < 1:
        raise InputError(f"expected a batch size of 1 or more, got {batch_size}")
    settings = _settings(classifier, scalings, keeps, masking, margin, provenance)
    if not resume:
        _clear(out)
    _claim(out, settings)
    if (out / SUMMARY).is_file() and (out / ROWS).is_file():
        shutil.rmtree(out / PARTS, ignore_errors=True)
        return read_summary(out / SUMMARY)
    done = _done(out)
    numbers = count(len(_parts(out)))
    title = str(provenance.get("method", "evaluate"))
    with torch.inference_mode(), tqdm(loader, title, _length(loader), unit="batch", disable=not progress) as batches:
        for batch in batches:
            fresh = _without(batch, done)
            if len(fresh["index"]):
                rows = _measure(explainer, classifier, fresh, scalings, keeps, masking, batch_size, files)
                write_rows(out / PARTS / f"{next(numbers):06d}.csv", rows)
                done.update(fresh["index"].tolist())
    return _finish(out, settings)


def _measure(
    explainer: Explainer,
    classifier: FrozenClassifier,
    batch: Batch,
    scalings: Sequence[MapScaling],
    keeps: Sequence[float],
    masking: MaskingKind,
    batch_size: int,
    files: Sequence[str],
) -> list[Row]:
    """Return one row per image of the batch."""
    images = batch["image"].to(classifier.mean.device)
    plain = plain_confidences(classifier, images)
    maps = usable_maps(explainer(images, plain.targets))
    masked = masked_confidences(
        classifier,
        images,
        maps.maps,
        plain.targets,
        keeps=keeps,
        scalings=scalings,
        masking=masking,
        batch_size=batch_size,
    )
    scores = dict(zip(score_columns(scalings, keeps), masked.flatten(0, 1).tolist(), strict=True))
    return list(_rows(batch, plain, maps, scores, files))


def _rows(
    batch: Batch, plain: PlainScores, maps: UsableMaps, scores: Mapping[str, Sequence[float]], files: Sequence[str]
) -> Iterator[Row]:
    best = plain.logits.topk(min(5, plain.logits.shape[1])).indices.tolist()
    labels, indices = batch["label"].tolist(), batch["index"].tolist()
    targets, confidence = plain.targets.tolist(), plain.confidence.tolist()
    constant, invalid = maps.constant.tolist(), maps.invalid.tolist()
    for row, (index, label) in enumerate(zip(indices, labels, strict=True)):
        known = label >= 0
        yield {
            "index": index,
            "file": files[index] if files else str(index),
            "label": label if known else "",
            "target": targets[row],
            "correct_top1": int(label == targets[row]) if known else "",
            "correct_top5": int(label in best[row]) if known else "",
            "p": confidence[row],
            **{name: values[row] for name, values in scores.items()},
            "constant": int(constant[row]),
            "invalid": int(invalid[row]),
        }


def _settings(
    classifier: FrozenClassifier,
    scalings: Sequence[MapScaling],
    keeps: Sequence[float],
    masking: MaskingKind,
    margin: float,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that the numbers depend on, as JSON gives it back."""
    settings = {
        **provenance,
        "backbone": classifier.spec.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_hash,
        "scalings": list(scalings),
        "keeps": list(keeps),
        "masking": masking,
        "ic_margin": margin,
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
        write_json(path, settings)


def _clear(out: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for name in (SUMMARY, ROWS, SETTINGS):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _parts(out: Path) -> list[Path]:
    return sorted((out / PARTS).glob("*.csv"))


def _done(out: Path) -> set[int]:
    """Return the positions of the images that are already measured."""
    return {int(index) for part in _parts(out) for index in read_rows(part).columns["index"]}


def _without(batch: Batch, done: set[int]) -> Batch:
    """Return the images of a batch that are not done yet, each once."""
    first = {index: row for row, index in reversed(list(enumerate(batch["index"].tolist()))) if index not in done}
    rows = torch.tensor(sorted(first.values()), dtype=torch.int64)
    if len(rows) == len(batch["index"]):
        return batch
    return Batch(image=batch["image"][rows], label=batch["label"][rows], index=batch["index"][rows])


def _length(loader: Iterable[Batch]) -> int | None:
    return len(loader) if isinstance(loader, Sized) else None


def _finish(out: Path, settings: dict[str, Any]) -> Summary:
    """Join the parts, write the summary, and remove the parts."""
    parts = _parts(out)
    if not parts:
        raise InputError("expected at least one image to evaluate, got none")
    join_rows(parts, out / ROWS)
    summary = summarise(read_rows(out / ROWS), settings)
    write_summary(out / SUMMARY, summary)
    shutil.rmtree(out / PARTS)
    return summary
