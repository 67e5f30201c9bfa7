import re

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

from tame.data.transforms import Crop, crop_box, resized_size, to_tensor
from tame.utils.checks import InputError

SIZES = [(64, 64), (97, 61), (61, 97), (300, 33), (33, 300), (500, 333), (20, 31), (47, 48), (1, 90)]


def noise(size, mode="RGB"):
    generator = np.random.default_rng(sum(size))
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(generator.integers(0, 256, shape, np.uint8))


def torchvision_crop(photo, resize, crop, interpolation):
    resized = TF.resize(photo, resize, InterpolationMode(interpolation), antialias=True)
    return TF.to_tensor(TF.center_crop(resized, [crop, crop]))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("resize", "crop"), [(48, 40), (33, 32), (40, 41), (31, 64), (50, 50)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_centre_crop_equals_torchvision(size, resize, crop, interpolation):
    photo = noise(size)
    got = Crop(resize, crop, interpolation)(photo)
    assert got.dtype == torch.float32
    assert torch.equal(got, torchvision_crop(photo, resize, crop, interpolation))


def test_grey_has_one_channel():
    photo = noise((50, 40), "L")
    assert torch.equal(Crop(32, 24, channels=1)(photo), torchvision_crop(photo, 32, 24, "bilinear"))


def test_no_resampling_where_the_short_side_fits():
    photo = noise((90, 48))
    got = Crop(48, 48)(photo)
    assert torch.equal(got, to_tensor(photo)[:, :, 21:69])


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (40, 40), (20, 20)])
def test_random_crops_are_windows_of_the_resized_image(size):
    photo = noise(size)
    crops = [Crop(40, 32, "bicubic", "random")(photo, torch.Generator().manual_seed(seed)) for seed in range(20)]
    resized = to_tensor(photo.resize(resized_size(*size, 40), Image.Resampling.BICUBIC))
    windows = resized.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    for crop in crops:
        assert (windows == crop).flatten(1).all(1).any()
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 10


def test_random_crops_reach_both_edges():
    columns = torch.arange(12, dtype=torch.uint8).expand(10, 12).numpy()
    photo = Image.fromarray(columns)
    starts = {
        round(float(Crop(10, 10, kind="random", channels=1)(photo, torch.Generator().manual_seed(seed))[0, 0, 0]) * 255)
        for seed in range(50)
    }
    assert starts == {0, 1, 2}


def test_random_crop_repeats_with_its_generator_and_flips_half_the_time():
    photo, crop = noise((40, 40)), Crop(40, 40, kind="random-flip")
    plain, flipped = to_tensor(photo), to_tensor(photo).flip(-1)
    results = [crop(photo, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert all(torch.equal(result, plain) or torch.equal(result, flipped) for result in results)
    assert 70 < sum(torch.equal(result, plain) for result in results) < 130
    assert torch.equal(results[7], crop(photo, torch.Generator().manual_seed(7)))


def test_random_crop_of_a_small_image_is_the_padded_centre():
    photo = noise((20, 20))
    assert torch.equal(Crop(20, 25, kind="random")(photo), Crop(20, 25)(photo))


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (224, 224), (1000, 300)])
def test_crop_box_is_where_the_crop_came_from(size):
    """Paint the box on the image: the crop then shows paint and nothing else, up to its edge."""
    left, top, right, bottom = crop_box(*size, 256, 224)
    values = np.zeros((size[1], size[0]), np.uint8)
    values[round(top) : round(bottom), round(left) : round(right)] = 255
    crop = Crop(256, 224, channels=1)(Image.fromarray(values))
    assert crop[:, 3:-3, 3:-3].min() == 1
    outside = Crop(256, 256, channels=1)(Image.fromarray(255 - values))
    assert outside[:, 19:-19, 19:-19].max() == 0
    assert right - left == pytest.approx(224 * size[0] / resized_size(*size, 256)[0])


def test_crop_box_of_a_padded_crop_goes_beyond_the_image():
    assert crop_box(100, 100, 50, 60) == (-10.0, -10.0, 110.0, 110.0)
    assert Crop(50, 60).box(100, 100) == crop_box(100, 100, 50, 60)


@pytest.mark.parametrize("size", [(64, 64), (97, 61), (33, 300), (20, 31), (40, 24)])
@pytest.mark.parametrize(("resize", "crop"), [((24, 40), (24, 40)), ((50, 30), (40, 21)), ((20, 30), (24, 40))])
def test_pairs_are_height_and_width_as_in_torchvision(size, resize, crop):
    photo = noise(size)
    expected = TF.to_tensor(TF.center_crop(TF.resize(photo, list(resize), antialias=True), list(crop)))
    assert torch.equal(Crop(resize, crop)(photo), expected)


@pytest.mark.parametrize("size", [(97, 61), (33, 300)])
def test_a_number_resizes_the_short_side_also_for_a_crop_that_is_no_square(size):
    photo = noise(size)
    expected = TF.to_tensor(TF.center_crop(TF.resize(photo, 48, antialias=True), [40, 30]))
    assert torch.equal(Crop(48, (40, 30))(photo), expected)


def test_random_crops_that_are_no_squares_are_windows_too():
    photo = noise((60, 40))
    windows = to_tensor(photo).unfold(1, 24, 1).unfold(2, 40, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    crops = [Crop((40, 60), (24, 40), kind="random")(photo, torch.Generator().manual_seed(seed)) for seed in range(9)]
    assert all((windows == crop).flatten(1).all(1).any() for crop in crops)
    assert len({tuple(crop.flatten().tolist()) for crop in crops}) > 4


@pytest.mark.parametrize("size", [(640, 480), (300, 1000)])
def test_the_box_of_an_image_resized_to_another_aspect_is_where_the_crop_came_from(size):
    crop = Crop((48, 80), (24, 40), channels=1)
    left, top, right, bottom = crop.box(*size)
    assert (left, top, right, bottom) == (size[0] / 4, size[1] / 4, 3 * size[0] / 4, 3 * size[1] / 4)
    values = np.zeros((size[1], size[0]), np.uint8)
    values[round(top) : round(bottom), round(left) : round(right)] = 255
    assert crop(Image.fromarray(values))[:, 2:-2, 2:-2].min() == 1
    whole = Crop((48, 80), (48, 80), channels=1)(Image.fromarray(values))
    assert whole[:, :10].max() == whole[:, :, :18].max() == whole[:, 38:].max() == whole[:, :, 62:].max() == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interpolation": "nearest"}, "expected the interpolation bilinear or bicubic, got 'nearest'"),
        ({"kind": "center"}, "expected one of the crops centre, random, random-flip, got 'center'"),
        ({"resize": 0}, "expected resize of 1 to 8192 pixels, a number or (height, width), got 0"),
        ({"crop": (8, -1)}, "expected crop of 1 to 8192 pixels, a number or (height, width), got (8, -1)"),
        ({"crop": (8, 8, 8)}, "expected crop of 1 to 8192 pixels, a number or (height, width), got (8, 8, 8)"),
    ],
)
def test_bad_geometry(values, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Crop(**{"resize": 8, "crop": 8, **values})
