"""The folder of a run: what it is, whether it is complete, and whether its files agree with one another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from tame.checkpoints.native import BACKBONE_TENSORS, METADATA, TENSORS, read_metadata
from tame.evaluation.records import SUMMARY, open_run, summarise
from tame.evaluation.rows import ROWS, read_rows
from tame.health.findings import Finding
from tame.inference.journal import JOURNAL
from tame.utils.checks import InputError
from tame.utils.owner import TEMPORARY, Owner

_AGAIN = "repeat the command with --resume false, or with another --out"
_RESUME = "repeat the same command: it resumes"
_MANIFEST = "manifest.json"
_SETTINGS = "settings.json"


def check_run(folder: Path) -> Iterator[Finding]:
    """Look at the folder of a training, an evaluation, a comparison or of explanations; or at a checkpoint's file."""
    checks = {
        TENSORS: _checkpoint,
        SUMMARY: _evaluation,
        JOURNAL: _interrupted_explanations,
        _MANIFEST: _explanations,
        "lightning": _interrupted_training,
        "parts": _interrupted_evaluation,
    }
    found = next((name for name in checks if (folder / name).exists()), None)
    inner = [] if found or not folder.is_dir() else sorted(path.parent for path in folder.glob(f"*/{SUMMARY}"))
    if folder.is_file():
        yield from _checkpoint(folder)
    elif found:
        yield from checks[found](folder)
    elif inner:
        for run in inner:
            yield from check_run(run)
    else:
        what = "holds no run, no explanations and no checkpoint" if folder.is_dir() else "does not exist"
        yield _problem(folder, f"it {what}", "name the folder that was given with --out")
    yield from _leftovers(folder)


def _checkpoint(path: Path) -> Iterator[Finding]:
    """Look at the tensors and metadata of an attention mechanism."""
    try:
        metadata = read_metadata(path)
        broken = _not_finite(path / TENSORS) if path.is_dir() else []
    except InputError as error:
        yield _problem(path, str(error), "train again, or take the file from where it was copied")
        return
    if broken:
        yield _problem(path, f"{len(broken)} tensors hold NaN or infinite values, such as {broken[0]}", "train again")
        return
    words = (
        f"{metadata['attention']} of {metadata['backbone'] or 'an unnamed backbone'}",
        f"{metadata['num_classes']} classes",
    )
    yield Finding("runs", str(path), "ok", f"attention mechanism: {', '.join(words)}, {', '.join(metadata['layers'])}")
    readable = path / METADATA
    if readable.is_file() and _json(readable) != metadata:
        advice = f"the program reads those in {TENSORS}: {METADATA} is for people"
        yield Finding("runs", str(readable), "note", f"other metadata than in {TENSORS}", advice)
    own = path / BACKBONE_TENSORS
    if own.is_file() and (broken := _not_finite(own)):
        yield _problem(own, f"{len(broken)} tensors hold NaN or infinite values, such as {broken[0]}", "convert again")


def _evaluation(folder: Path) -> Iterator[Finding]:
    """Look at a finished evaluation: its rows are complete, and its summary is theirs."""
    try:
        run = open_run(folder)
        again = summarise(run.rows, run.summary.settings, run.summary.cost.get("work"))
    except InputError as error:
        yield _problem(folder, str(error), _AGAIN)
        return
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # settings or columns are missing
        yield _problem(folder, f"{SUMMARY} and {ROWS} do not belong together: {error}", _AGAIN)
        return
    numbers = sorted(run.rows.columns.get("index", np.array([math.nan])))
    if numbers != list(range(len(run.rows.files))):
        found = f"{ROWS} holds {len(run.rows.files)} rows that are not those of images 0 to {len(run.rows.files) - 1}"
        yield _problem(folder, f"{found}: rows are missing or repeated", _AGAIN)
        return
    different = [
        name
        for name, estimate in run.summary.metrics.items()
        if name in again.metrics and not _same(estimate.value, again.metrics[name].value)
    ]
    if different or run.summary.images != again.images:
        which = f"{different[0]} among {len(different)} measures" if different else "the number of images"
        yield _problem(folder, f"{SUMMARY} differs from {ROWS} in {which}", _AGAIN)
    else:
        method = run.summary.settings.get("method")
        yield Finding("runs", str(folder), "ok", f"finished evaluation of {method}, {run.summary.images} images")


def _interrupted_evaluation(folder: Path) -> Iterator[Finding]:
    done, broken = 0, []
    for part in sorted((folder / "parts").glob("*.csv")):
        try:
            done += len(read_rows(part).columns["index"])
        except InputError as error:
            broken.append(str(error))
        except (KeyError, ValueError):
            broken.append(f"{part} holds no rows of an evaluation")
    if broken or _json(folder / _SETTINGS) is None:
        yield _problem(folder, broken[0] if broken else f"{_SETTINGS} is missing or damaged", _AGAIN)
    else:
        yield Finding("runs", str(folder), "note", f"interrupted evaluation, {done} images are done", _RESUME)


def _interrupted_training(folder: Path) -> Iterator[Finding]:
    """Look at the checkpoint from which a training is resumed: the last one, or the one before it."""
    files = [folder / "lightning" / name for name in ("last.ckpt", "previous.ckpt")]
    files = [file for file in files if file.is_file()]
    if not files:
        yield Finding("runs", str(folder), "note", "a training that ended before its first checkpoint", _RESUME)
    for number, file in enumerate(files):
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            epoch, step = int(content["epoch"]), int(content["global_step"])
        except Exception as error:  # damaged files raise many kinds of errors
            if number == len(files) - 1:
                reason = str(error).partition("\n")[0][:200]
                yield _problem(files[0], f"it cannot be read: {type(error).__name__}: {reason}", _AGAIN)
            continue
        found = f"interrupted training, at step {step} in epoch {epoch}"
        found += f", since {files[0].name} is damaged" if number else ""
        yield Finding("runs", str(folder), "note", found, _RESUME)
        return


def _interrupted_explanations(folder: Path) -> Iterator[Finding]:
    done = len((folder / JOURNAL).read_bytes().splitlines()) - 1  # after the settings
    yield Finding("runs", str(folder), "note", f"interrupted explanations, {max(0, done)} images are done", _RESUME)


def _explanations(folder: Path) -> Iterator[Finding]:
    """Look at explanations: every map and overlay of the manifest is there and can be read."""
    entries = _json(folder / _MANIFEST)
    if not isinstance(entries, list) or not all(isinstance(each, dict) and "map" in each for each in entries):
        yield _problem(folder / _MANIFEST, "it is damaged", "explain the images again")
        return
    broken = [name for each in entries if not _is_map(folder / (name := str(each["map"])))]
    broken += [name for each in entries if (name := str(each.get("overlay"))) and not (folder / name).is_file()]
    if broken:
        found = f"{len(broken)} files of {len(entries)} explanations are missing or damaged, such as {broken[0]}"
        yield _problem(folder, found, "explain the images again")
    else:
        yield Finding("runs", str(folder), "ok", f"{len(entries)} explanations with their maps and overlays")


def _leftovers(folder: Path) -> Iterator[Finding]:
    files = [file for file in (folder.rglob(TEMPORARY) if folder.is_dir() else ()) if _is_left(file)]
    if files:
        found = f"{len(files)} temporary files of processes that have ended, such as {files[0].name}"
        yield Finding("runs", str(folder), "note", found, "the next run of this folder removes them")


def _is_left(file: Path) -> bool:
    owner = Owner.of(file.name)
    return owner is None or owner.lives() is False


def _not_finite(file: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file that hold NaN or infinite values."""
    with safe_open(file, framework="pt") as tensors:
        return [name for name in tensors.keys() if not tensors.get_tensor(name).isfinite().all()]  # noqa: SIM118


def _is_map(file: Path) -> bool:
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind == "f")


def _json(file: Path) -> object:
    """Return the content of a JSON file, None if it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _problem(path: Path, found: str, advice: str) -> Finding:
    return Finding("runs", str(path), "problem", found, advice)
