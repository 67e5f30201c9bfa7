from pathlib import Path

import pytest

from tame.data.folders import resolve_folders, resolve_list, walk_images
from tame.utils.checks import InputError
from tame.utils.folders import FILES, claim


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


def walked(folder):
    return [str(entry.path.relative_to(folder)) for entry in walk_images(folder)]


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_linked_folders_are_followed_and_read_once(tmp_path):
    put(tmp_path / "store" / "b.jpg")
    put(tmp_path / "images" / "cats" / "a.jpg")
    images = tmp_path / "images"
    (images / "linked").symlink_to(Path("..") / "store")
    assert walked(images) == ["cats/a.jpg", "linked/b.jpg"]
    (images / "again").symlink_to(tmp_path / "store")  # a second link to the same folder: the first in order is read
    (images / "a link to cats").symlink_to("cats")  # the folder itself is preferred
    (images / "cats" / "loop").symlink_to("..")
    (tmp_path / "store" / "back").symlink_to(images)
    (images / "dead").symlink_to("nowhere")
    assert walked(images) == ["again/b.jpg", "cats/a.jpg"]


def test_hidden_folders_are_left_out_unless_named(tmp_path):
    put(tmp_path / "cats" / "a.jpg")
    put(tmp_path / "cats" / ".ipynb_checkpoints" / "a-checkpoint.jpg")
    put(tmp_path / ".cache" / "deep" / "b.jpg")
    assert walked(tmp_path) == ["cats/a.jpg"]
    assert walked(tmp_path / ".cache") == ["deep/b.jpg"]


def test_files_that_are_not_read_are_counted_and_named(tmp_path, caplog):
    for name in ("a.jpg", "b.HEIC", "c.heic", "d.pdf", "e", "notes.txt", ".hidden.heic"):
        put(tmp_path / name)
    assert walked(tmp_path) == ["a.jpg"]
    assert caplog.messages == [
        f"Skipped files in {tmp_path} that are not read as images: 2 .heic, 1 .pdf, 1 without suffix."
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(InputError, match=r"got none \(skipped: 2 \.heic, 1 \.pdf, 1 without suffix\)$"):
        walk_images(tmp_path)


def test_a_folder_without_other_files_logs_nothing(root, caplog):
    walk_images(root)
    assert caplog.messages == []


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
    path = root.parent / "list.txt"
    path.write_text("a.jpg 0")
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


def test_what_this_package_wrote_is_left_out_and_said_once(root, caplog):
    for name in (
        "a.overlay.png",
        "manifest.json",
        "out/gradcam/a.overlay.png",
        "out/grid.png",
        "out/own.png",
        "mine.overlay.png",
    ):
        put(root / name)
    claim(root, ["a.overlay.png", "manifest.json"], known=True)
    claim(root / "out", ["gradcam/", "grid.png"], known=True)
    assert walked(root) == ["a.jpg", "class one/b c.JPEG", "class one/d.png", "mine.overlay.png", "out/own.png"]
    assert caplog.messages == [f"Left out in {root} what this package wrote there (folders: 1, pictures: 2)."]


def test_a_folder_of_what_this_package_wrote_alone(tmp_path):
    put(tmp_path / "out" / "a.overlay.png")
    claim(tmp_path / "out", ["a.overlay.png"], known=True)
    with pytest.raises(InputError, match="expected images .* got none"):
        walk_images(tmp_path / "out")


def test_a_damaged_note_of_what_this_package_wrote_is_said(root, caplog):
    (root / FILES).write_text("{")
    assert len(walked(root)) == 3
    assert len(caplog.messages) == 1 and f"cannot read {root / FILES}" in caplog.messages[0]
