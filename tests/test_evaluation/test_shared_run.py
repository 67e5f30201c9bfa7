"""Several processes that share a run, as threads (`shared_process`); `test_processes` starts real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from shared_process import Shared
from small_runs import COUNT, FILES, Images, Interrupted, maps_by, run
from tame.classifier import FrozenClassifier
from tame.evaluation import open_run
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_measure_every_image_once(toy_classifier: Make, tmp_path: Path, count: int) -> None:
    classifier = toy_classifier()
    alone = run(classifier, tmp_path / "alone", method="centre")
    classifiers, asked = [toy_classifier() for _ in range(count)], []
    inner = maps_by(classifier, "centre")

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    results = Shared(count).run(
        lambda process: run(classifiers[process.rank], tmp_path / "all", maps_of=maps_of, process=process)
    )
    assert sorted(asked) == [0, *range(COUNT)]  # the first process asks once more, for the work
    for result in results:
        assert result == results[0]
        for name, estimate in alone.metrics.items():
            assert result.metrics[name] == pytest.approx(estimate, abs=2e-3), name  # type: ignore[attr-defined]
    rows = open_run(tmp_path / "all").rows
    assert rows.files == FILES
    before = open_run(tmp_path / "alone").rows.columns
    for name, values in rows.columns.items():
        if name.endswith("p"):
            assert values.tolist() == pytest.approx(before[name].tolist(), abs=1e-5), name


def test_what_several_processes_began_one_can_end(toy_classifier: Make, tmp_path: Path) -> None:
    classifiers = [toy_classifier(), toy_classifier()]
    maps = [maps_by(classifier, "gradcam") for classifier in classifiers]
    results = Shared().run(
        lambda process: run(
            classifiers[process.rank],
            tmp_path,
            maps_of=maps[process.rank],
            batch_size=3,
            stop=7 if process.rank else 12,
            process=process,
        )
    )
    assert [type(result) for result in results] == [Interrupted, Interrupted]
    parts = sorted(path.name for path in (tmp_path / "parts").glob("*.csv"))
    assert parts == ["0-000000.csv", "0-000001.csv", "1-000000.csv"]  # 0 2 4, 6 8 10; 1 3 5
    asked: list[int] = []
    inner = maps_by(toy_classifier(), "gradcam")

    def maps_of(images: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        asked.extend(indices.tolist())
        return inner(images, targets, indices)

    run(toy_classifier(), tmp_path, maps_of=maps_of)
    assert asked == [index for index in range(COUNT) if index not in (0, 2, 4, 6, 8, 10, 1, 3, 5)]
    assert open_run(tmp_path).rows.files == FILES


def test_settings_that_the_first_process_refuses_end_all_of_them(toy_classifier: Make, tmp_path: Path) -> None:
    run(toy_classifier(), tmp_path, method="centre")
    classifiers = [toy_classifier(), toy_classifier()]
    first, second = Shared().run(
        lambda process: run(classifiers[process.rank], tmp_path, method="random", process=process)
    )
    assert isinstance(first, InputError) and "holds a run with other settings" in str(first)
    assert isinstance(second, SystemExit) and second.code == 2


def test_more_processes_than_images(toy_classifier: Make, tmp_path: Path) -> None:
    images, classifiers = [Images()[0]], [toy_classifier(), toy_classifier()]
    results = Shared().run(
        lambda process: run(
            classifiers[process.rank], tmp_path, dataset=images, files=FILES[:1], process=process, method="centre"
        )
    )
    assert [getattr(result, "images", result) for result in results] == [1, 1]
