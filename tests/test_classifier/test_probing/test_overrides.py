"""What a user says of a classifier: read from words, and put in the place of what is usual."""

from __future__ import annotations

from pathlib import Path

import pytest

from tame.classifier import Preprocessing, TokenLayout
from tame.classifier.probing.infer_spec import override_preprocessing, with_overrides
from tame.classifier.probing.overrides import SpecOverrides, overrides_of, read_class_names, read_size
from tame.utils.checks import InputError
from toys import TOY_SPECS

CNN = TOY_SPECS["cnn"]


def test_overrides_of_arguments(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n dog \nbird\n")
    said = overrides_of(3, tmp_path / "names.txt", "24x40", [0.5], [0.25])
    assert said == SpecOverrides(
        num_classes=3, class_names=("cat", "dog", "bird"), input_size=(24, 40), mean=(0.5,), std=(0.25,)
    )
    assert overrides_of(class_names=["cat", "dog"]) == SpecOverrides(class_names=("cat", "dog"))
    assert overrides_of() == SpecOverrides()


def test_imagenet_names_need_no_file() -> None:
    names = read_class_names("imagenet")
    assert (len(names), names[0], names[-1]) == (1000, "tench", "toilet tissue")


def test_unusable_class_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    with pytest.raises(InputError, match=r"expected a class name in every line of .*, got an empty line 2"):
        read_class_names(tmp_path / "names.txt")
    with pytest.raises(InputError, match=r"expected a file of class names, one per line, or imagenet, got .*nowhere"):
        read_class_names(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("\ufeffcat\ndog\n".encode(), ("cat", "dog")),
        (b"cat\r\ndog\r\n", ("cat", "dog")),
        (b"cat\ndog\n\n", ("cat", "dog")),
        (b"cat\r\ndog\r\n\r\n \n", ("cat", "dog")),
        ("cat\ndog\n".encode("utf-16"), ("cat", "dog")),
        (b"\xfe\xff" + "cat\r\ndog".encode("utf-16-be"), ("cat", "dog")),
        ("cat\u2028big\ndog\x0bsmall\nfish\x85\n".encode(), ("cat\u2028big", "dog\x0bsmall", "fish\x85")),
    ],
)
def test_class_names_are_read_as_written(tmp_path: Path, data: bytes, names: tuple[str, ...]) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    assert read_class_names(tmp_path / "names.txt") == names


@pytest.mark.parametrize("data", ["cat\ndog\n".encode("utf-16-le"), "Löwe\n".encode("latin-1"), b"\xff\xfec"])
def test_another_encoding_of_class_names_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"expected a file of class names, one per line, or imagenet, got .*names.txt"):
        read_class_names(tmp_path / "names.txt")


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_class_names_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "names.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"expected a class name in every line of .*, got an empty file"):
        read_class_names(tmp_path / "names.txt")


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("64x96", (64, 96)), (32, (32, 32)), ([8, 9], (8, 9))])
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert read_size("input_size", text) == size


@pytest.mark.parametrize("text", ["", "big", "3x4x5", [1, 2, 3]])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected input_size in pixels, one number or HEIGHTxWIDTH, got"):
        read_size("input_size", text)


@pytest.mark.parametrize("text", ["0", "-2x4", "1000000", [8, 8193]])
def test_sizes_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"expected input_size of 1 to 8192 pixels, .*, got \("):
        read_size("input_size", text)


def test_overrides_replace_weaker_ones() -> None:
    weak, strong = (
        SpecOverrides(num_classes=3, masking="vit", mean=(0.1,)),
        SpecOverrides(num_classes=4, cam_layer="top"),
    )
    assert strong.over(weak) == SpecOverrides(num_classes=4, masking="vit", mean=(0.1,), cam_layer="top")


@pytest.mark.parametrize(
    ("given", "resize", "crop"),
    [
        (SpecOverrides(), 256, 224),
        (SpecOverrides(input_size=(112, 112)), 128, 112),  # in proportion
        (SpecOverrides(input_size=(64, 96)), (64, 96), (64, 96)),  # the whole image
        (SpecOverrides(input_size=(112, 112), resize=112), 112, 112),
        (SpecOverrides(resize=(250, 300)), (250, 300), 224),
    ],
)
def test_the_resize_follows_the_input_size(given: SpecOverrides, resize: object, crop: object) -> None:
    found = override_preprocessing(Preprocessing(256, 224, "bicubic"), given)
    assert (found.resize, found.crop, found.interpolation) == (resize, crop, "bicubic")
    assert override_preprocessing(found, given) == found


def test_overrides_replace_the_values_of_a_spec() -> None:
    tokens = TokenLayout(1, (4, 4))
    spec = with_overrides(
        CNN,
        SpecOverrides(
            class_names=("a", "b", "c", "d", "e"),
            layers=("stage2",),
            cam_layer="stage1",
            masking="vit",
            tokens=tokens,
            score="sigmoid",
            output="logits",
        ),
    )
    assert spec.class_names == ("a", "b", "c", "d", "e")
    assert spec.layers["proposed"] == spec.layers["paper"] == ("stage2",)
    assert (spec.cam_layer, spec.masking, spec.tokens, spec.score) == ("stage1", "vit", tokens, "sigmoid")
    assert spec.output is not None
    assert with_overrides(CNN, SpecOverrides()) == CNN


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SpecOverrides(class_names=("cat", "dog")), "expected 5 class names for toy_cnn, got 2"),
        (SpecOverrides(masking="blur"), "expected masking cnn or vit, got 'blur'"),
        (SpecOverrides(score="tanh"), "expected score softmax or sigmoid or probability, got 'tanh'"),
    ],
)
def test_what_contradicts_is_refused(given: SpecOverrides, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_overrides(CNN, given)
