"""Random inputs end in the right value or in an `InputError` of one line.

``TAME_FUZZ=100 pytest tests/test_fuzz*.py`` tries a hundred times as many.
"""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import answered, tries
from tame.backbones import BACKBONES
from tame.backbones.load import load_network
from tame.classifier.probing.overrides import read_class_names
from tame.data import ImageEntry, array_to_photo, load_image, read_list, write_list

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
NAMES |= st.text("ab \n\r\t\"'?7-#\\\u2028\u00e9\u0301\ufeff", min_size=1, max_size=8).map(os.fsencode)


@tries(100)
@given(
    st.lists(st.tuples(NAMES, st.none() | st.integers(0, 9)), min_size=1, max_size=5, unique_by=lambda pair: pair[0])
)
def test_every_written_list_is_read_back(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("images")
    entries = [ImageEntry(root / os.fsdecode(name), label) for name, label in files]
    for path, _ in entries:
        path.write_bytes(b"x")
    write_list(root / "a folder of lists" / "list.txt", entries, root)
    assert read_list(root / "a folder of lists" / "list.txt", root, 10) == entries


LINES = st.lists(
    st.text('a.jpg 123?"-\\\n\r\tu0\ud7ff\0/', max_size=12) | st.text(max_size=10) | st.just("a.jpg 1"), max_size=6
)


@tries(150)
@given(LINES.map("\n".join).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=60))
def test_any_list_is_read_or_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "list.txt").write_bytes(content)
    for path, label in answered(read_list, tmp_path / "list.txt", tmp_path, 10) or []:
        assert path.is_file() and label in (None, *range(10))


def encoded(format):
    buffer = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(values).save(buffer, format)
    return buffer.getvalue()


FILES = {
    suffix: encoded(name)
    for suffix, name in {"jpg": "JPEG", "png": "PNG", "gif": "GIF", "tif": "TIFF", "bmp": "BMP"}.items()
}


@tries(150)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 2000),
)
def test_broken_images_are_read_or_refused(tmp_path, suffix, changes, end):
    content = bytearray(FILES[suffix])
    for position, value in changes:
        content[position % len(content)] = value
    (tmp_path / f"x.{suffix}").write_bytes(content[:end])
    image = answered(load_image, tmp_path / f"x.{suffix}")
    assert image is None or image.mode == "RGB"
    if not changes and (end is None or end >= len(content)):
        assert image is not None and image.size == (16, 12)


@tries(100)
@given(st.sampled_from(["uint16", "int32", "float32"]), st.sampled_from([1, 255, 4095, 65535, 10**6]), st.data())
def test_a_ramp_of_any_depth_is_a_ramp(tmp_path, kind, top, data):
    if kind != "float32" and top == 1 or kind == "uint16" and top > 65535:
        return
    steps = data.draw(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
    values = (np.array([[1.0, *steps]]) * top).astype(kind)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    got = np.asarray(load_image(tmp_path / "deep.tif", 1)).astype(float)
    assert np.abs(got - values.astype(float) * 255 / top).max() <= 0.51


SHAPES = st.lists(st.integers(0, 5), max_size=4)


@tries(100)
@given(
    SHAPES,
    st.sampled_from(
        [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.complex64]
    ),
)
def test_any_tensor_is_an_image_or_refused(shape, dtype):
    image = answered(array_to_photo, torch.ones(shape).to(dtype))
    if image is not None:
        assert image.mode == "RGB" and image.width in shape and image.height in shape


@tries(100)
@given(
    st.lists(st.text(max_size=6), max_size=5).map("\n".join).map(lambda text: text.encode("utf-8", "replace"))
    | st.binary(max_size=40)
)
def test_any_file_of_class_names_is_read_or_refused(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    names = answered(read_class_names, tmp_path / "names.txt")
    assert names is None or all(name.strip() for name in names)


PLAIN = st.none() | st.integers() | st.text(max_size=4) | st.just(torch.zeros(2, 3))
CONTENTS = st.recursive(PLAIN, lambda inner: st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6)


@tries(60)
@given(CONTENTS | st.binary(max_size=40))
def test_any_weights_file_is_loaded_or_refused(tmp_path, toy_backbone, content):
    spec, path = BACKBONES.get(toy_backbone), tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    answered(load_network, spec, path)
