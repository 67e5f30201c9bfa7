from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tame.presets import PRESETS, Preset


def test_there_are_three_presets_under_their_own_names() -> None:
    assert PRESETS.names() == ["paper", "released", "tame"]
    assert all(PRESETS.get(name).name == name for name in PRESETS)


@pytest.mark.parametrize(
    ("choice", "paper", "released"),
    [  # the table of differences between the paper and the program its authors released
        ("layers", "paper", "released"),
        ("loss", "paper", "released"),
        ("other_classes", "random", "batch"),
        ("crop", "random", "released"),
        ("output_size", "largest", "first"),
        ("masking", None, "cnn"),
        ("road_selection", "exact", "percentile"),
        ("road_space", "image", "network"),
        ("road_reading", "confidence", "kept"),
        ("rise_weights", "confidence", "logit"),
    ],
)
def test_paper_and_released_program_differ_as_published(choice: str, paper: object, released: object) -> None:
    assert getattr(PRESETS.get("paper"), choice) == paper
    assert getattr(PRESETS.get("released"), choice) == released


@pytest.mark.parametrize("name", ["paper", "released"])
def test_what_the_paper_and_the_released_program_share(name: str) -> None:
    preset = PRESETS.get(name)
    assert (preset.init, preset.batch_size, preset.epochs, preset.max_lr) == ("random", 32, 8, 1e-3)
    assert preset.ic_margin == 0  # p' > p, which counts rounding


def test_our_own_preset_uses_the_backbones_masking_and_does_not_count_rounding() -> None:
    preset = PRESETS.get("tame")
    assert preset.layers == "proposed"
    assert preset.masking is None
    assert preset.ic_margin == 1e-5


def test_our_own_preset_trains_a_shared_row_at_its_own_rates() -> None:
    preset = PRESETS.get("tame")
    assert (preset.init, preset.trainable, preset.loss) == ("classifier", "shared", "ranked")
    assert (preset.batch_size, preset.epochs, preset.max_lr, preset.token_max_lr) == (16, 2, 5e-3, 0.05)


def test_our_own_preset_removes_exact_counts_on_the_image_and_reports_confidence() -> None:
    preset = PRESETS.get("tame")
    assert (preset.road_selection, preset.road_space, preset.road_reading) == ("exact", "image", "confidence")


def test_a_preset_is_immutable() -> None:
    preset: Preset = PRESETS.get("tame")
    with pytest.raises(FrozenInstanceError):
        preset.epochs = 3  # type: ignore[misc]
