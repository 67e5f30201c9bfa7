import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps, PngImagePlugin

from tame.data.images import array_to_photo, load_image
from tame.utils.checks import InputError


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def ramp(dtype, top):
    """(2, 4) values from 0 to top."""
    return np.linspace(0, top, 8).reshape(2, 4).astype(dtype)


def pixels(path, channels=3):
    image = load_image(path, channels)
    assert image.mode == ("RGB" if channels == 3 else "L")
    return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_are_as_they_are(tmp_path, channels):
    grey = ramp(np.uint8, 255)
    for image in (Image.fromarray(grey), Image.fromarray(np.stack([grey] * 3, axis=-1))):
        got = pixels(saved(tmp_path, image), channels)
        assert np.array_equal(got, grey if channels == 1 else np.stack([grey] * 3, axis=-1))


def test_colour_to_grey_is_luma(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (2, 2), (200, 100, 50)))
    assert pixels(path, 1)[0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_one_bit(tmp_path):
    bits = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    assert np.array_equal(pixels(saved(tmp_path, Image.fromarray(bits).convert("1")), 1), bits)


def test_palette(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(saved(tmp_path, image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_palette_with_a_transparent_colour_is_laid_over_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=0)
    assert pixels(path).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 100, 200, 51)), ("LA", (0, 51))])
def test_alpha_is_laid_over_white(tmp_path, mode, colour):
    got = pixels(saved(tmp_path, Image.new(mode, (1, 1), colour)))[0, 0]
    over_white = [value * 0.2 + 255 * 0.8 for value in (colour[:-1] if mode == "RGBA" else colour[:1] * 3)]
    assert np.allclose(got, over_white, atol=1)


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink: red
    assert np.abs(pixels(saved(tmp_path, image, "red.jpg", quality=95))[4, 4].astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path, suffix):
    values = ramp(np.uint16, 65535)
    got = pixels(saved(tmp_path, Image.fromarray(values), f"deep.{suffix}"), 1)
    assert np.array_equal(got, np.round(values / 257.0))
    assert got.max() == 255  # not clipped at 255 of 65535, as a bare convert("L") does
    assert len(np.unique(got)) == 8


RAMP = np.linspace(0, 1, 8)
GREY = [0, 36, 73, 109, 146, 182, 219, 255]  # 255 times the ramp


@pytest.mark.parametrize(
    ("values", "assumed"),
    [
        ((RAMP * 255).astype(np.int32), "32-bit integer grey values are scaled from the range 0..255"),
        ((RAMP * 65535).astype(np.int32), "32-bit integer grey values are scaled from the range 0..65535"),
        ((RAMP * 2**31 * 0.99).astype(np.int32), "scaled from the range 0 to the largest value of each image"),
        ((RAMP * 4095).astype(np.uint16), "16-bit integer grey values are scaled from the range 0..4095"),
        ((RAMP * 255).astype(np.uint16), "16-bit integer grey values are scaled from the range 0..255"),
        (RAMP.astype(np.float32), "float grey values are scaled from the range 0..1,"),
        ((RAMP * 255).astype(np.float32), "float grey values are scaled from the range 0..255"),
        ((RAMP * 65535).astype(np.float32), "float grey values are scaled from the range 0..65535"),
        ((RAMP * 1e6).astype(np.float32), "scaled from the range 0 to the largest value of each image"),
    ],
)
def test_grey_values_are_scaled_by_the_range_that_contains_them_said_once(tmp_path, caplog, values, assumed):
    for name in ("a.tif", "b.tif"):
        path = saved(tmp_path, Image.fromarray(values[None]), name)
        assert np.abs(pixels(path, 1)[0].astype(int) - GREY).max() <= 1
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: ") and assumed in message


def test_full_range_16_bit_values_need_no_assumption(tmp_path, caplog):
    assert pixels(saved(tmp_path, Image.fromarray((RAMP * 65535).astype(np.uint16)[None]), "deep.png"), 1).max() == 255
    assert not caplog.messages


def test_values_outside_of_the_range_are_clipped(tmp_path):
    values = np.array([[-5, 0, 32768, 65535]], np.int32)
    assert pixels(saved(tmp_path, Image.fromarray(values), "deep.tif"), 1).tolist() == [[0, 0, 128, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 128, 255], [0, 128, 255]),
        ([float("nan"), -3, 300], [0, 0, 255]),
        ([-0.1, 0.5, 1.1], [0, 128, 255]),  # overshoot of a bicubic interpolation
        ([0.5, float("inf"), float("-inf"), float("nan"), 1], [128, 255, 0, 0, 255]),
        ([float("inf")], [255]),
        ([0, 0], [0, 0]),
    ],
)
def test_floats(tmp_path, values, expected):
    path = saved(tmp_path, Image.fromarray(np.array([values], np.float32)), "float.tif")
    assert pixels(path, 1).tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_tensors_of_any_float_precision(dtype):
    image = array_to_photo(torch.full((3, 4, 5), 0.5, dtype=dtype))
    assert (image.size, image.getpixel((0, 0))) == ((5, 4), (128, 128, 128))


@pytest.mark.parametrize("values", [torch.ones(3, 4, 5).to_sparse(), torch.ones(3, 4, 5, device="meta")])
def test_tensors_without_dense_values(values):
    with pytest.raises(InputError, match="expected a dense image tensor, got torch.float32"):
        array_to_photo(values)


@pytest.mark.parametrize(
    "address", ["https://example.org/cat.jpg", "s3://bucket/cat.jpg", "data:image/png;base64,AAAA"]
)
def test_an_address_is_one_clear_line(address):
    with pytest.raises(InputError, match=r"^expected an image file, got the address .*: download the image first$"):
        load_image(address)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    values = np.random.default_rng(0).integers(0, 255, (8, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = pixels(saved(tmp_path, Image.fromarray(values), exif=exif))
    turned = {  # what a viewer shows, from the EXIF standard's table of row 0 and column 0
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.transpose(1, 0, 2),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(values),
    }
    assert np.array_equal(got, turned[orientation])


def test_exif_orientation_of_a_jpeg_in_both_channel_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.new("L", (40, 20)), "turned.jpg", exif=exif)
    assert load_image(path).size == load_image(path, 1).size == (20, 40)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def truncated(tmp_path):
    image = Image.effect_noise((64, 64), 50)
    path = saved(tmp_path, image, "bad.jpg")
    path.write_bytes(path.read_bytes()[:1000])
    return path


def test_every_kind_of_bad_file_is_one_clear_sentence(tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    cases = {
        "text.jpg": "expected an image, got a file of another kind",
        "empty.jpg": "the file is empty",
        "folder.jpg": "expected an image file, got a folder",
        "gone.jpg": "No such file or directory",
        truncated(tmp_path).name: "it cannot be decoded .*truncated",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=rf"^cannot read .*{name}: {message}") as error:
            load_image(tmp_path / name)
        assert "\n" not in str(error.value)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"cannot read .*image\.png: it has too many pixels"):
        load_image(path)


def test_other_channel_counts(tmp_path):
    with pytest.raises(InputError, match="expected an image of 1 or 3 channels, got 4"):
        load_image(saved(tmp_path, Image.new("L", (2, 2))), 4)


def test_the_picture_outlives_its_file(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 4), "red"))
    image = load_image(path)
    path.unlink()
    assert ImageOps.invert(image).getpixel((0, 0)) == (0, 255, 255)


def test_a_decoder_that_hangs_is_interrupted(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("RGB", (4, 4)))

    def hang(self):
        while True:
            pass

    with monkeypatch.context() as hanging:
        hanging.setattr("tame.data.images._PATIENCE", 0.1)
        hanging.setattr(PngImagePlugin.PngImageFile, "load", hang)
        with pytest.raises(InputError) as error:
            load_image(path)
    assert str(error.value) == f"cannot read {path}: it cannot be decoded (it takes longer than 0.1 s)"
    assert load_image(path).size == (4, 4)


def test_postscript_is_not_executed(tmp_path, monkeypatch):
    """Pillow would run it in Ghostscript, if that is installed."""
    path = saved(tmp_path, Image.new("RGB", (4, 4)), "image.eps").rename(tmp_path / "image.jpg")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: pytest.fail("executed"))
    with pytest.raises(InputError, match="image.jpg: expected an image, got PostScript, which is a program"):
        load_image(path)
