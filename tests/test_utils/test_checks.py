from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor

from tame.utils.checks import InputError, check_images, check_maps, check_targets, shown


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 4, 5),
        torch.zeros(0, 3, 4, 4),
        torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1),
        torch.full((1, 3, 2, 2), 1 + 1e-7),  # rounding of a resize
        torch.rand(1, 3, 2, 2, dtype=torch.float16),
    ],
)
def test_images_in_zero_to_one_pass(images: Tensor) -> None:
    check_images(images, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 4, 4), r"expected images of shape \(B, 3, H, W\), got \(3, 4, 4\)"),
        (torch.rand(2, 1, 4, 4), r"expected images of shape \(B, 3, H, W\), got \(2, 1, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"expected float images in \[0, 1\], got torch.uint8 \(divide by"),
        (torch.full((1, 3, 1, 1), 255.0), r"expected images in \[0, 1\], not normalised, got values in \[255, 255\]"),
        (torch.full((1, 3, 1, 1), -1.5), r"not normalised, got values in \[-1.5, -1.5\]"),
        (torch.full((1, 3, 1, 1), torch.nan), r"not normalised, got values in \[nan, nan\]"),
    ],
)
def test_other_images_are_refused_with_what_came(images: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_images(images, 3)


@pytest.mark.parametrize("targets", [torch.tensor([0, 4]), torch.tensor([], dtype=torch.int64)])
def test_class_indices_pass(targets: Tensor) -> None:
    check_targets(targets, len(targets), 5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([1]), r"expected targets of shape \(2,\) and type int64, got \(1,\) torch.int64"),
        (torch.tensor([[1], [2]]), r"got \(2, 1\) torch.int64"),
        (torch.tensor([1.0, 2.0]), r"got \(2,\) torch.float32"),
        (torch.tensor([1, 2], dtype=torch.int32), r"got \(2,\) torch.int32"),
        (torch.tensor([0, 5]), r"expected targets in 0\.\.4, got 0\.\.5"),
        (torch.tensor([-1, 3]), r"expected targets in 0\.\.4, got -1\.\.3"),
    ],
)
def test_other_targets_are_refused_with_what_came(targets: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_targets(targets, 2, 5)


def test_maps_of_any_values_pass() -> None:
    check_maps(torch.tensor([[[-3.0, torch.nan]]]), 1)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (torch.rand(2, 1, 4, 4), r"expected float maps of shape \(2, h, w\), got \(2, 1, 4, 4\) torch.float32"),
        (torch.rand(3, 4, 4), r"got \(3, 4, 4\) torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), r"got \(2, 4, 4\) torch.int64"),
    ],
)
def test_other_maps_are_refused_with_what_came(maps: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_maps(maps, 2)


def test_an_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)


ODD, ESCAPED = "two\nlines\t\x1b[2J\udcff café 猫.png", r"two\nlines\t\x1b[2J\udcff café 猫.png"


def test_messages_are_one_line_that_a_terminal_prints_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    assert shown(ODD) == ESCAPED and shown(shown(ODD)) == ESCAPED
    error = InputError(f"cannot read {ODD}")
    assert str(error) == str(copy.copy(error)) == f"cannot read {ESCAPED}"
    logging.getLogger("tame").warning("%s: %d files", ODD, 3)
    assert caplog.messages == [f"{ESCAPED}: 3 files"]
