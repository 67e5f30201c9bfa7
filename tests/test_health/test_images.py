"""Folders of images and lists."""

import pytest

from tame.health.images import ImagesToCheck


@pytest.fixture
def found(photographs, tmp_path):
    """Write lists, and return the states and findings by topic and file name."""

    def check(num_classes=None, sample=50, data=photographs, **lists):
        (tmp_path / "lists").mkdir(exist_ok=True)
        for name, lines in lists.items():
            (tmp_path / "lists" / f"{name}.txt").write_text("\n".join(lines))
        images = ImagesToCheck(data, tmp_path / "lists" if lists else None, num_classes, sample, 0)
        return [(each.state, each.about.rpartition("/")[2], each.found) for each in images.check()]

    return check


def lines(labels, start=0):
    return [f"{start + index:02}.png {label}" for index, label in enumerate(labels)]


def test_good_lists(found):
    result = found(train=lines([0, 1, 2, 1]), Validation=lines([0, "?"], 10), num_classes=3)
    assert [state for state, _, _ in result] == ["ok"] * 4
    assert result[0][2].startswith("2 images in ") and result[0][2].endswith("; labels 0 to 0, 1 different, 1 without")
    assert result[2][2].endswith("; labels 0 to 2, 3 different")
    assert result[3] == ("ok", "train.txt", "4 of 4 images were opened")


def test_missing_images_and_labels_out_of_range(found):
    (problem,) = found(train=[*lines([0, 1]), "no/x.png 1", "no/y.png 0"])
    assert problem[:2] == ("problem", "train.txt")
    assert "line 3: expected the image" in problem[2] and "(2 of 4 images are missing in" in problem[2]
    (problem,) = found(train=lines([0, 7]), num_classes=5)
    assert "line 2: expected a label in 0..4, got 7" in problem[2]


def test_labels_that_are_counted_from_one(found):
    result = found(train=lines([1, 2, 3, 2]))
    assert ("problem", "train.txt", "the labels are 1 to 3, and classes are counted from 0") in result
    assert all(state == "ok" for state, _, _ in found(train=lines([1, 2, 4])))


def test_a_folder_of_imagenet_with_several_labels(found, photographs):
    for folder, files in {"n00000001": ("00", "01"), "n00000002": ("02", "03")}.items():
        (photographs / folder).mkdir()
        for name in files:
            (photographs / f"{name}.png").rename(photographs / folder / f"{name}.png")
    listed = ["n00000001/00.png 0", "n00000001/01.png 5", "n00000002/02.png 3", "n00000002/03.png 3"]
    message = "images of 1 folders have several labels, such as n00000001 with 0, 5"
    assert ("problem", "train.txt", message) in found(train=listed)


def test_images_that_cannot_be_read_are_counted_and_named(found, photographs):
    (photographs / "01.png").write_bytes(b"no image")
    (problem,) = [each for each in found(train=lines([0, 1, 0])) if each[0] == "problem"]
    assert problem[2].startswith("1 of 3 sampled images cannot be read, such as: cannot read ")
    assert "01.png" in problem[2]
    assert [each for each in found() if each[0] == "problem"][0][2].startswith("1 of 24 sampled images cannot be read")


def test_training_images_in_another_list(found):
    result = found(train=lines([0, 1, 0]), Evaluation=lines([0, 1], 2))
    message = "1 of 2 images are training images too: numbers of them are too good"
    assert ("note", "Evaluation.txt", message) in result


def test_a_folder_without_lists(found, photographs, tmp_path):
    result = found(sample=5)
    assert [each[0] for each in result] == ["note", "ok", "ok"]
    assert result[1:] == [("ok", "photographs", "24 images"), ("ok", "photographs", "5 of 24 images were opened")]
    (tmp_path / "empty").mkdir()
    assert found(data=tmp_path / "empty")[1][0] == "problem"
