import os
from pathlib import Path

import pytest

from tame.data.lists import (
    ImageEntry,
    draw,
    list_hash,
    read_list,
    split_validation,
    write_list,
)
from tame.utils.checks import InputError
from tame.utils.io import replacing


@pytest.fixture
def root(tmp_path):
    """A folder with three files whose contents are not read."""
    for name in ("a.jpg", "class one/b c.JPEG", "class one/d.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "images"


def written(root, text, encoding="utf-8"):
    path = root.parent / "list.txt"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.delenv("LIST", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_reads_spaces_blank_lines_and_windows_line_ends(root, encoding):
    path = written(root, "a.jpg 0 \r\n\n  class one/b c.JPEG\t9  \n   \nclass one/d.png ?", encoding)
    assert read_list(path, root, 10) == [
        ImageEntry(root / "a.jpg", 0),
        ImageEntry(root / "class one/b c.JPEG", 9),
        ImageEntry(root / "class one/d.png", None),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg", "line 2: expected 'path label' with an integer label, got 'a.jpg'"),
        ("class one/b c.JPEG", "line 2: expected 'path label' with an integer label"),
        ("a.jpg 1.5", "line 2: expected 'path label' with an integer label, got 'a.jpg 1.5'"),
        ("7", "line 2: expected 'path label'"),
        ("a.jpg 10", r"line 2: expected a label in 0\.\.9, got 10"),
        ("a.jpg -1", r"line 2: expected a label in 0\.\.9, got -1"),
        ("class one/gone.jpg 3", r"line 2: expected the image .*gone\.jpg, which does not exist \(1 of 2 images"),
        ("nowhere/gone.jpg 3", r"line 2: expected the image .*nowhere/gone\.jpg, which does not exist"),
    ],
)
def test_bad_line_names_list_and_line(root, line, message):
    path = written(root, f"a.jpg 0\n{line}\n")
    with pytest.raises(InputError, match=message) as error:
        read_list(path, root, 10)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_empty_list(root, text):
    with pytest.raises(InputError, match=r"list\.txt, got an empty list"):
        read_list(written(root, text), root, 10)


def test_absent_and_binary_lists(root):
    with pytest.raises(InputError, match=r"expected a list of images, got .*none\.txt, which is not a file"):
        read_list(root / "none.txt", root, 10)
    path = root / "binary.txt"
    path.write_bytes("a.jpg 0\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"expected a list of images in UTF-8, got .*binary\.txt in UTF-16"):
        read_list(path, root, 10)
    for content in (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\x00\x10JFIF"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"line 1: expected .*udcff.udcd8.udcff.udce0"):
            read_list(path, root, 10)


def test_names_that_are_not_utf8_are_read_as_they_are(root):
    name = os.fsdecode(b"caf\xe9.jpg")
    (root / name).write_bytes(b"x")
    path = root.parent / "list.txt"
    path.write_bytes(b"caf\xe9.jpg 3\na.jpg 1\n")
    assert read_list(path, root, 4) == [ImageEntry(root / name, 3), ImageEntry(root / "a.jpg", 1)]


ENTRIES = [ImageEntry(Path(f"{index:03}.jpg"), index % 7) for index in range(100)]


def test_draws_are_ordered_repeatable_and_nested():
    small, large = draw(ENTRIES, 10, seed=3), draw(ENTRIES, 40, seed=3)
    assert len(small) == 10
    assert small == sorted(small) == draw(ENTRIES, 10, seed=3)
    assert set(small) < set(large)
    assert small != draw(ENTRIES, 10, seed=4)
    assert small != ENTRIES[:10]


def test_draw_of_everything_and_of_less_than_nothing():
    assert draw(ENTRIES, None, seed=0) == draw(ENTRIES, 1000, seed=0) == ENTRIES
    with pytest.raises(InputError, match="expected a number of images of 1 or more, got -1"):
        draw(ENTRIES, -1, seed=0)


@pytest.mark.parametrize(("count", "fraction", "val"), [(100, 0.1, 10), (2, 0.1, 1), (3, 0.99, 2), (25, 0.1, 2)])
def test_split_is_a_partition(count, fraction, val):
    train, held_out = split_validation(ENTRIES[:count], fraction, seed=1)
    assert len(held_out) == val
    assert sorted(train + held_out) == ENTRIES[:count]
    assert train == sorted(train)
    assert (train, held_out) == split_validation(ENTRIES[:count], fraction, seed=1)


def test_impossible_splits():
    with pytest.raises(InputError, match="expected at least two images .* got 1"):
        split_validation(ENTRIES[:1])
    with pytest.raises(InputError, match="expected a validation fraction between 0 and 1, got 1"):
        split_validation(ENTRIES, 1)


def test_hash_depends_on_relative_paths_labels_and_order(tmp_path):
    def hashed(root, entries):
        return list_hash([ImageEntry(Path(root) / entry.path, entry.label) for entry in entries], root)

    here = hashed("/here", ENTRIES)
    assert here == hashed(tmp_path, ENTRIES)
    assert len({here, hashed("/here", ENTRIES[::-1]), hashed("/here", ENTRIES[1:])}) == 3
    assert here != hashed("/here", [ImageEntry(ENTRIES[0].path, None), *ENTRIES[1:]])


def test_written_list_reads_back(root):
    entries = [ImageEntry(root / "class one/b c.JPEG", 4), ImageEntry(root / "a.jpg", None)]
    path = root.parent / "new" / "list.txt"
    write_list(path, entries, root)
    assert path.read_text() == "class one/b c.JPEG 4\na.jpg ?\n"
    assert read_list(path, root, 5) == entries
    assert [file.name for file in path.parent.iterdir()] == ["list.txt"]


NAMES = [" leading.jpg", "trailing ", "two\nlines.jpg", "a\rb.jpg", '"quoted".jpg', '"', "\ufefffirst.jpg", "7", "? 3"]
NAMES += [
    "\u2028",
    "\u3000wide",
    "a\u3000",
    "back\\slash.jpg",
    "# 1",
    "caf\u00e9",
    "cafe\u0301",
    os.fsdecode(b"\xff\xfe.jpg"),
]


@pytest.mark.parametrize("label", [3, None])
@pytest.mark.parametrize("name", NAMES)
def test_any_list_that_is_written_is_read_back(tmp_path, name, label):
    for each in (name, f"{name}/{name}x"):
        root = tmp_path / str(len(each))
        (root / each).parent.mkdir(parents=True, exist_ok=True)
        (root / each).write_bytes(b"x")
        entries = [ImageEntry(root / each, label)]
        write_list(tmp_path / "list.txt", entries, root)
        assert read_list(tmp_path / "list.txt", root, 4) == entries


def test_a_quotation_mark_of_an_older_list_is_a_part_of_the_name(root):
    (root / '"a.jpg"').write_bytes(b"x")
    path = written(root, '"a.jpg" 0\n')
    assert read_list(path, root, 4) == [ImageEntry(root / "a.jpg", 0)]
    (root / "a.jpg").unlink()
    assert read_list(path, root, 4) == [ImageEntry(root / '"a.jpg"', 0)]


def test_a_list_of_paths_alone_has_no_labels(root):
    path = written(root, "a.jpg\nclass one/b c.JPEG\n")
    assert read_list(path, root, 10) == [
        ImageEntry(root / "a.jpg", None),
        ImageEntry(root / "class one/b c.JPEG", None),
    ]


def test_an_image_listed_twice_is_counted_once_and_said(root, caplog):
    path = written(root, "a.jpg ?\nclass one/d.png 2\n./a.jpg 1\nclass one/../a.jpg 1\n")
    assert read_list(path, root, 10) == [ImageEntry(root / "a.jpg", 1), ImageEntry(root / "class one/d.png", 2)]
    assert caplog.messages == [f"{path}: 1 images are listed repeatedly, the first in line 3; each is counted once."]


def test_an_image_with_two_labels_is_refused(root):
    path = written(root, "a.jpg 1\n\na.jpg 2\n")
    with pytest.raises(InputError, match=r"line 3: expected one label .* a\.jpg|line 3: .* labels 1 \(line 1\) and 2"):
        read_list(path, root, 10)


def test_a_folder_named_as_an_image_is_refused(root):
    (root / "z.jpg").mkdir()
    with pytest.raises(InputError, match=r"line 2: expected the image .*z\.jpg, which is a folder \(1 of 2"):
        read_list(written(root, "a.jpg 0\nz.jpg 1\n"), root, 10)


@pytest.mark.parametrize("line", ["a\0.jpg 1", r'"\u0000" 1', r'"\ud800" 1', "a.jpg " + "9" * 5000, "x" * 5000 + " 1"])
def test_impossible_lines_are_input_errors(root, line):
    with pytest.raises(InputError, match="line 1: expected"):
        read_list(written(root, line), root, 10)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cwd", "file.txt"]
