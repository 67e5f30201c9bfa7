"""Unreadable images are left out of their batch and told."""

import pytest
import torch

from tame.data import Crop, ImageEntry, ImageListDataset
from tame.data.datamodule import image_loader
from tame.data.readable import ReadableImages
from tame.utils.checks import InputError


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_without_its_unreadable_images(photographs, num_workers):
    for name in ("01.png", "04.png", "05.png"):
        (photographs / name).write_bytes(b"broken")
    images = ImageListDataset([ImageEntry(photographs / f"{index:02}.png", index) for index in range(6)], Crop(36, 32))
    batches = list(image_loader(ReadableImages(images), 2, num_workers))
    assert [batch["index"].tolist() for batch in batches] == [[0], [2, 3], []]
    assert [batch["label"].tolist() for batch in batches] == [[0], [2, 3], []]
    assert [len(batch["image"]) for batch in batches] == [1, 2, 0]
    assert torch.equal(batches[1]["image"][0], images[2]["image"])
    assert "unreadable" not in batches[1]
    assert [problem.split(":")[0] for problem in batches[2]["unreadable"]] == [
        f"cannot read {photographs / name}" for name in ("04.png", "05.png")
    ]
    with pytest.raises(InputError, match="cannot read .*01.png"):
        images[1]
