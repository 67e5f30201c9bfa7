"""The folder of a training run: what is in it, whose it is, and where an interrupted run goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from tame.checkpoints.native import METADATA, TENSORS
from tame.data import write_list
from tame.training.build import Training
from tame.training.last_checkpoint import Found, previous_of, read_last
from tame.training.plan import TRAIN_LIST, VAL_LIST, TrainingPlan
from tame.utils.checks import InputError, shown
from tame.utils.folders import claim, locked
from tame.utils.io import check_same_settings, read_json, write_json
from tame.utils.owner import remove_leftovers

logger = logging.getLogger("tame")

_SETTINGS = "settings.json"
CURVES = "training.png"
FILES = (
    TENSORS,
    METADATA,
    "config.json",
    _SETTINGS,
    TRAIN_LIST,
    VAL_LIST,
    CURVES,
    "last/",
    "lightning/",
    "logs/",
    "explanations/",
)
"""What a run writes."""


def last_checkpoint(plan: TrainingPlan) -> Path:
    """Return Lightning's checkpoint from which an interrupted run is resumed."""
    return plan.folder / "lightning" / "last.ckpt"


@contextmanager
def run_folder(plan: TrainingPlan) -> Iterator[None]:
    """Keep other runs out of the folder, and claim what a run writes there; the main process (rank 0) does.

    Raises:
        InputError: If another run uses the folder, or it holds files of anyone else.
    """
    if not is_main():
        yield
        return
    with locked(plan.folder):
        claim(plan.folder, FILES, known=_has_run(plan.folder))
        for pictures in (plan.folder / "logs").glob("*/explanations"):
            remove_leftovers(pictures)
        yield


def is_main() -> bool:
    """Whether this is the main process (rank 0), as far as the environment tells."""
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def begin(training: Training) -> Path | None:
    """Write what describes the run; return the Lightning checkpoint to resume from, None to start from the beginning.

    Raises:
        InputError: For an interrupted run of other settings, naming the differences, or one that cannot be resumed.
    """
    plan = training.plan
    found, settings = None, plan.settings()
    if plan.output.resume and any(file.is_file() for file in _checkpoints(plan)):
        check_same_settings(plan.folder / _SETTINGS, settings)
        found = read(training)
    if found:
        logger.info("Resuming from %s: %d of %d steps are done.", shown(found.file), found.steps, training.steps)
    if is_main():
        if not found:
            _forget_earlier_run(plan)
            write_json(plan.folder / _SETTINGS, settings)
        write_json(plan.folder / "config.json", plan.config)
        write_list(plan.folder / TRAIN_LIST, plan.lists.train, plan.lists.train_root)
        write_list(plan.folder / VAL_LIST, plan.lists.val, plan.lists.val_root)
    return found.file if found else None


def read(training: Training) -> Found | None:
    """Read the checkpoint to resume a run from; None if there is none.

    Raises:
        InputError: If none can be read.
    """
    return read_last(last_checkpoint(training.plan), training.model.attention.state_dict())


def _forget_earlier_run(plan: TrainingPlan) -> None:
    """Remove the results of an earlier run in the folder, so that they are not taken for those of this run."""
    for file in (*_checkpoints(plan), plan.folder / TENSORS, plan.folder / "last" / TENSORS):
        if file.is_file():
            logger.info("Removing %s of an earlier run.", shown(file))
            file.unlink()


def _checkpoints(plan: TrainingPlan) -> tuple[Path, Path]:
    last = last_checkpoint(plan)
    return last, previous_of(last)


def _has_run(folder: Path) -> bool:
    """Whether a run of an earlier version, which noted no files, is in a folder."""
    try:
        return "train_list_sha256" in read_json(folder / _SETTINGS, "")
    except InputError:
        return False
