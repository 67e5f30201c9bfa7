"""Look at everything that a run depends on, and say what to do about what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tame.health.findings import Diagnosis
from tame.health.images import ImagesToCheck
from tame.health.machine import check_devices, check_disk, check_versions
from tame.health.runs import check_run
from tame.utils.limits import check_numbers


def doctor(
    runs: Sequence[str | Path] = (),
    *,
    data: str | Path | None = None,
    lists: str | Path | None = None,
    num_classes: int | None = None,
    sample: int = 100,
    seed: int = 0,
    out: str | Path = ".",
) -> Diagnosis:
    """Check this machine, images, lists and the folders of runs, and say what to do about problems.

    Of the machine: versions, devices and free space. Nothing is changed, and no code of a checkpoint or list is run.

    Args:
        runs: Folders of trainings, evaluations, comparisons or explanations, or checkpoints; default: none.
        data: ImageNet root (with ILSVRC2012_img_train and ILSVRC2012_img_val) or any folder of images; default: DATA
            of the environment or of .env.
        lists: Folder of image lists; default: LIST of the environment or of .env.
        num_classes: Number of classes, which labels are compared with; default: not known.
        sample: Number of images of each list, or folder without lists, that are opened.
        seed: Seed of the sample.
        out: Folder of results, whose free space is looked at.

    Returns:
        The findings, each with a state (ok, note or problem), in words, and with advice.

    Raises:
        InputError: For a number out of range.

    Example:
        >>> import tame
        >>> shipped = Path(tame.__file__).parent / "assets" / "efficientnet_lite0"
        >>> [finding.found for finding in doctor([shipped]).findings if finding.topic == "runs"]
        ['attention mechanism: ttame of efficientnet_lite0, 1000 classes, ...']
    """
    check_numbers(num_classes=num_classes, sample=sample, seed=seed)
    images = ImagesToCheck(data, lists, num_classes, sample, seed)
    found = [*check_versions(), *check_devices(), *check_disk(Path(out)), *images.check()]
    for run in runs:
        found += check_run(Path(run))
    return Diagnosis(tuple(found))
