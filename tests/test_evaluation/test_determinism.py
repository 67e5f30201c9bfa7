"""The same rows whatever the batches, worker processes, threads and processes; nothing counted twice or dropped.

Rows are equal to 1e-6 if the maps are: p is computed in float32 (3e-8 at 0.25), and sums may be added in another order.
Maps that are computed depend on the batch by their own rounding, which may swap two nearly equal pixels of a ranking;
one of 1024 pixels moves p of the toy by less than 2e-4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shared_process import Shared
from small_runs import COUNT, FILES, cells, maps_by, run
from tame.classifier import FrozenClassifier
from tame.evaluation.records import open_run
from tame.metrics import Deletion, ImputedConfidence, MaskedConfidence, Metric

Make = Callable[..., FrozenClassifier]
METRICS: tuple[Metric, ...] = (MaskedConfidence(masking="cnn"), ImputedConfidence((0.5,)), Deletion(2))
WAYS = [(batch, 0, 1, processes) for batch in (1, 7, 32) for processes in (1, 2, 3)]
WAYS += [(7, 2, 1, 1), (7, 2, 2, 2), (1, 0, 2, 2), (32, 2, 2, 3), (8, 2, 1, 5)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def evaluate(
    make: Make, out: Path, method: str, processes: int, batch_size: int = 32, num_workers: int = 0
) -> list[int]:
    """Evaluate, and return the positions of the images that are explained, without that for the work."""
    classifiers, asked = [make() for _ in range(processes)], list[int]()

    def explained_by(classifier: FrozenClassifier) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        inner = maps_by(classifier, method)

        def explain(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
            asked.extend(indices.tolist())
            return inner(images, targets, indices)

        return explain

    maps = [explained_by(classifier) for classifier in classifiers]
    settings = {"method": method, "batch_size": batch_size, "num_workers": num_workers}
    results = Shared(processes).run(
        lambda process: run(
            classifiers[process.rank], out, METRICS, maps_of=maps[process.rank], process=process, **settings
        )
    )
    assert not isinstance(results[0], BaseException) and results == [results[0]] * processes
    asked.remove(0)
    return asked


@pytest.mark.parametrize(("method", "tolerance"), [("random", 1e-6), ("gradcam", 2e-4)])
@pytest.mark.parametrize(("batch_size", "num_workers", "threads", "processes"), WAYS)
def test_rows_do_not_depend_on_how_they_are_computed(
    toy_classifier: Make,
    tmp_path: Path,
    batch_size: int,
    num_workers: int,
    threads: int,
    processes: int,
    method: str,
    tolerance: float,
) -> None:
    """Of 23 images two processes have 12 and 11, three have 8, 8 and 7, and five have 5 or 4."""
    evaluate(toy_classifier, tmp_path / "one", method, 1)
    torch.set_num_threads(threads)
    asked = evaluate(toy_classifier, tmp_path / "other", method, processes, batch_size, num_workers)
    assert sorted(asked) == list(range(COUNT))
    one, other = (open_run(tmp_path / name) for name in ("one", "other"))
    assert one.rows.files == other.rows.files == FILES
    assert other.rows.columns["index"].tolist() == list(range(COUNT))
    for name, values in one.rows.columns.items():
        if not name.startswith("seconds_") and not (method == "gradcam" and name.endswith("_kept")):
            np.testing.assert_allclose(other.rows.columns[name], values, rtol=0, atol=tolerance, err_msg=name)
    assert one.summary.settings == other.summary.settings
    assert (one.summary.images, one.summary.accuracy) == (other.summary.images, other.summary.accuracy)
    assert one.summary.cost["work"] == other.summary.cost["work"]


@pytest.mark.parametrize("method", ["random", "gradcam"])
def test_twice_the_same_is_equal_to_the_last_digit(toy_classifier: Make, tmp_path: Path, method: str) -> None:
    for name in ("one", "other"):
        evaluate(toy_classifier, tmp_path / name, method, 3, batch_size=5)
    assert cells(tmp_path / "one") == cells(tmp_path / "other")
