from pathlib import Path

import pytest

from tame.data.lists import (
    ImageEntry,
    draw,
    list_hash,
    read_list,
    resolve_folders,
    resolve_list,
    split_validation,
    walk_images,
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
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=r"expected a list of images in UTF-8, cannot read .*binary\.txt"):
        read_list(path, root, 10)


def test_walk_is_sorted_recursive_and_skips_other_files(root):
    for name in ("notes.txt", "class one/._d.png", "Z.PNG"):
        (root / name).write_bytes(b"x")
    names = [str(entry.path.relative_to(root)) for entry in walk_images(root)]
    assert names == ["Z.PNG", "a.jpg", "class one/b c.JPEG", "class one/d.png"]
    assert all(entry.label is None for entry in walk_images(root))


def test_walk_of_nothing(tmp_path):
    with pytest.raises(InputError, match="expected images .* in .*cwd or its subfolders, got none"):
        walk_images(tmp_path / "cwd")
    with pytest.raises(InputError, match="expected a folder of images, got .*absent"):
        walk_images(tmp_path / "absent")


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


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cwd", "file.txt"]


def test_folders_of_imagenet_and_of_anything_else(root):
    assert resolve_folders(str(root)) == (root, root)
    (root / "ILSVRC2012_img_val").mkdir()
    assert resolve_folders(str(root)) == (root, root / "ILSVRC2012_img_val")
    (root / "ILSVRC2012_img_train").mkdir()
    assert resolve_folders(str(root)) == (root / "ILSVRC2012_img_train", root / "ILSVRC2012_img_val")


def test_option_comes_before_environment_before_dotenv(root, monkeypatch):
    others = [root.parent / name for name in ("option", "environment", "dotenv")]
    for folder in others:
        folder.mkdir()
    Path(".env").write_text(f"DATA={others[2]}\n")
    assert resolve_folders("").train == others[2]
    monkeypatch.setenv("DATA", str(others[1]))
    assert resolve_folders("").train == others[1]
    assert resolve_folders(str(others[0])).train == others[0]


def test_no_data_folder(root, monkeypatch):
    with pytest.raises(InputError, match="name it with data, or set DATA"):
        resolve_folders("")
    with pytest.raises(InputError, match=r"expected a folder as data, got .*a\.jpg"):
        resolve_folders(str(root / "a.jpg"))
    monkeypatch.setenv("DATA", "/nowhere/at/all")
    with pytest.raises(InputError, match="expected a folder as DATA .*, got '/nowhere/at/all'"):
        resolve_folders("")


def test_lists_by_path_by_name_and_by_default(root, monkeypatch):
    path = written(root, "a.jpg 0")
    lists = str(path.parent)
    assert resolve_list(str(path), "", "train.txt") == path
    assert resolve_list("list.txt", lists, "train.txt") == path
    assert resolve_list("", lists, "list.txt") == path
    assert resolve_list("", lists, "train.txt") is None
    assert resolve_list("", "", "train.txt") is None
    monkeypatch.setenv("LIST", lists)
    assert resolve_list("", "", "list.txt") == path


def test_absent_lists(root):
    with pytest.raises(
        InputError, match=r"got 'my\.txt', which is neither a file nor a name in the folder of .*images"
    ):
        resolve_list("my.txt", str(root), "train.txt")
    with pytest.raises(InputError, match=r"neither a file nor a name .* \(neither lists nor LIST is set\)"):
        resolve_list("my.txt", "", "train.txt")
    with pytest.raises(InputError, match="expected a folder as lists, got 'absent'"):
        resolve_list("", "absent", "train.txt")
