from __future__ import annotations

import pytest
import torch

from tame.classifier.layout import channels_first, has_aspect

SQUARE, WIDE = (224, 224), (64, 96)


@pytest.mark.parametrize(
    ("shape", "size", "channels"),
    [
        ((2, 512, 7, 7), SQUARE, 512),
        ((2, 7, 7, 512), SQUARE, 512),
        ((2, 1, 1, 512), SQUARE, 512),
        ((2, 56, 56, 56), SQUARE, 56),  # both fit: channels first
        ((2, 5, 6, 7), SQUARE, 5),  # neither fits: channels first
        ((2, 96, 16, 24), WIDE, 96),
        ((2, 16, 24, 96), WIDE, 96),
        ((2, 768, 2, 3), WIDE, 768),
        ((2, 2, 3, 768), WIDE, 768),
        ((2, 768, 1, 2), WIDE, 768),  # 64 / 64 x 96 / 64, rounded up
        ((2, 1, 2, 768), WIDE, 768),
        ((2, 2048, 3, 4), (150, 200), 2048),  # convolutions without padding
        ((2, 3, 3, 8), WIDE, 8),  # within the slack
    ],
)
def test_channels_come_first(shape: tuple[int, ...], size: tuple[int, int], channels: int) -> None:
    value = torch.rand(shape)
    found = channels_first(value, size)
    assert found.shape[1] == channels
    expected = value if shape[1] == channels else value.permute(0, 3, 1, 2)
    assert torch.equal(found, expected) and found.data_ptr() == value.data_ptr()


@pytest.mark.parametrize(
    ("height", "width", "size", "fits"),
    [
        (7, 7, SQUARE, True),
        (7, 6, SQUARE, False),
        (4, 6, WIDE, True),
        (4, 7, WIDE, True),
        (6, 4, WIDE, False),
        (8, 2, WIDE, False),
    ],
)
def test_a_map_has_the_aspect_of_the_input_up_to_rounding(
    height: int, width: int, size: tuple[int, int], fits: bool
) -> None:
    assert has_aspect(height, width, size) is fits
    assert has_aspect(width, height, size[::-1]) is fits
