"""Maps computed elsewhere: found, checked before work, equal to the method that made them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from small_runs import COUNT, FILES, Images, cells, maps_by, run
from tame.classifier import FrozenClassifier
from tame.evaluation.map_files import MapFiles
from tame.perturbations import plain_scores
from tame.utils.checks import InputError

Make = Callable[..., FrozenClassifier]


def save(folder: Path, **arrays: Any) -> Path:
    for name, array in arrays.items():
        path = folder / f"{name.replace('__', '/')}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def test_nested_and_flat_names(tmp_path: Path) -> None:
    save(tmp_path, n01__x=np.full((2, 3), 1.0), y=np.full((2, 3), 2, np.uint8), x=np.full((2, 3), 9.0))
    maps = MapFiles(tmp_path, ["n01/x.JPEG", "n02/y.png", "x.jpg"])
    found = maps(torch.tensor([1, 0, 2, 1]))
    assert found.dtype == torch.float32 and found.shape == (4, 2, 3)
    assert found[:, 0, 0].tolist() == [2, 1, 9, 2]  # the nested one comes first


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int32, np.uint8, np.bool_])
def test_any_type_of_number(tmp_path: Path, kind: Any) -> None:
    values = np.array([[0, 1], [1, 0]]).astype(kind)
    assert MapFiles(save(tmp_path, a=values), ["a.png"])(torch.tensor([0])).tolist() == [[[0, 1], [1, 0]]]


@pytest.mark.parametrize("batch_size", [7, COUNT])
def test_equal_to_the_method_that_made_them(toy_classifier: Make, tmp_path: Path, batch_size: int) -> None:
    classifier, data = toy_classifier(), Images()
    expected = run(classifier, tmp_path / "method", batch_size=7)
    explain = maps_by(classifier, "gradcam")
    targets = plain_scores(classifier, data.images).targets
    for indices in torch.arange(COUNT).split(7):
        for index, one in zip(indices.tolist(), explain(data.images[indices], targets[indices], indices), strict=True):
            save(tmp_path / "maps", **{Path(FILES[index]).stem: one.numpy()})
    maps = MapFiles(tmp_path / "maps", FILES)
    found = run(
        classifier, tmp_path / "files", maps_of=lambda _images, _targets, indices: maps(indices), batch_size=batch_size
    )
    for name, estimate in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(estimate, abs=2e-3), name
    assert (found.cost["explain_forward"], expected.cost["explain_forward"]) == (0, 1)
    if batch_size == 7:  # to the last digit
        made, read = (
            [{name: cell for name, cell in row.items() if not name.startswith("explain_")} for row in rows]
            for rows in (cells(tmp_path / "method"), cells(tmp_path / "files"))
        )
        assert read == made


def test_maps_without_information_are_counted(toy_classifier: Make, tmp_path: Path) -> None:
    for index, file in enumerate(FILES):
        values = np.arange(16.0).reshape(4, 4)
        values[0, 0] = np.nan if index in (1, 2) else -np.inf if index == 3 else values[0, 0]
        save(tmp_path / "maps", **{Path(file).stem: np.ones((4, 4)) if index == 5 else values})
    maps = MapFiles(tmp_path / "maps", FILES)
    summary = run(toy_classifier(), tmp_path / "run", maps_of=lambda _images, _targets, indices: maps(indices))
    assert (summary.images, summary.invalid, summary.constant) == (COUNT, 3, 1)


def test_missing_maps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of maps, got .*nowhere"):
        MapFiles(tmp_path / "nowhere", ["a.png"])
    save(tmp_path, a=np.ones((2, 2)))
    with pytest.raises(InputError, match=r"lacks the maps of 2 of 3 images, such as n01/b.npy"):
        MapFiles(tmp_path, ["a.png", "n01/b.png", "c.png"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones((2, 2)), np.ones((3, 3))), r"expected maps \(h, w\) of one shape in .*, got \[\(2, 2\), \(3, 3\)\]"),
        ((np.ones((1, 2, 2)), np.ones((1, 2, 2))), r"expected maps \(h, w\) of one shape in .*, got \[\(1, 2, 2\)\]"),
        ((np.ones((2, 2)), np.ones((2, 2), complex)), r"expected a map of numbers, got .*b.npy of type complex128"),
        ((np.ones((2, 2)), np.array([["a"]])), r"expected a map of numbers, got .*b.npy of type <U1"),
        ((np.ones((2, 2)), np.array([[{}]])), r"expected a map as a .npy file, got .*b.npy: .*"),
    ],
)
def test_arrays_that_are_no_maps(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MapFiles(save(tmp_path, a=arrays[0], b=arrays[1]), ["a.png", "b.png"])


class Opened:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("opened"),))


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(Opened())])
def test_files_that_are_no_arrays_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(content)
    with pytest.raises(InputError, match="expected a map as a .npy file, got .*a.npy: "):
        MapFiles(tmp_path, ["a.png"])
    assert not Path("opened").exists()


def test_an_archive_is_no_map(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", np.ones((2, 2)))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match="expected a map as a .npy file, got .*a.npy: it holds NpzFile"):
        MapFiles(tmp_path, ["a.png"])


def test_one_file_for_two_images(tmp_path: Path) -> None:
    save(tmp_path, n01__x=np.ones((2, 2)), x=np.ones((2, 2)))
    assert MapFiles(tmp_path, ["n01/x.png", "n02/x.png"])(torch.tensor([0, 1])).shape == (2, 2, 2)
    with pytest.raises(InputError, match="expected a map of its own for each image, got .*x.npy for several"):
        MapFiles(tmp_path, ["n01/x.png", "n02/x.png", "n03/x.png"])
