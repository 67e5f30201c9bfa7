"""`tame explain` from the command line: what it prints and writes."""

import json
import os
import shutil
from pathlib import Path

from tame.inference import bundled_images

EXPLAIN = ("explain", "--device", "cpu", "--num-workers", "0")


def last_line(errors):
    """Return what is said last; messages before it say what was done."""
    return errors.strip().splitlines()[-1]


def test_explaining_bundled_images(tame, explainer, tmp_path):
    status, output, _ = tame(*EXPLAIN, "--checkpoint", explainer, "--target", "285", "--target", "Egyptian cat")
    assert status == 0
    manifest = json.loads((tmp_path / "explanations" / "manifest.json").read_text())
    assert {entry["class_name"] for entry in manifest} == {"Egyptian cat"}
    assert {entry["target"] for entry in manifest} == {285}
    assert "2 explanations: overlays, maps and manifest.json are in explanations" in output
    lines = [line for line in output.splitlines() if "Egyptian cat (285)" in line]
    assert len(lines) == len(manifest) == 2 and all(line.endswith(" %") for line in lines)
    for entry in manifest:
        assert (tmp_path / "explanations" / entry["overlay"]).is_file()
        assert (tmp_path / "explanations" / entry["map"]).is_file()


def test_the_best_classes_side_by_side(tame, explainer, tmp_path):
    chelsea = next(path for path in bundled_images() if path.name == "chelsea.jpg")
    status, output, _ = tame(*EXPLAIN, chelsea, "--checkpoint", explainer, "--top", "3", "--out", "best three")
    assert status == 0
    manifest = json.loads((tmp_path / "best three" / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest] == [str(chelsea)] * 3
    confidences = [entry["confidence"] for entry in manifest]
    assert confidences == sorted(confidences, reverse=True)
    assert len({entry["target"] for entry in manifest}) == 3
    assert "cat" in manifest[0]["class_name"].lower() or "tabby" in manifest[0]["class_name"].lower()


def test_an_unknown_class_is_answered_with_near_ones(tame, explainer, tmp_path):
    status, _, errors = tame(*EXPLAIN, "--checkpoint", explainer, "--target", "egyptian cats")
    assert status == 2
    assert last_line(errors).startswith("tame explain: unknown class 'egyptian cats' for efficientnet_lite0")
    assert "'Egyptian cat' (285)" in last_line(errors)
    status, _, errors = tame(*EXPLAIN, "--checkpoint", explainer, "--target", "1000")
    assert (status, last_line(errors)) == (2, "tame explain: expected a class index in 0..999, got 1000")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_do_not_stop_the_others(tame, toy_explainer, photographs, tmp_path):
    broken = photographs / "00.png"
    broken.write_text("text")
    status, output, errors = tame(
        *EXPLAIN, photographs / "01.png", broken, photographs / "02.png", "--backbone", "toy_cnn",
        "--checkpoint", toy_explainer, "--out", "some",
    )  # fmt: skip
    assert status == 1
    complaints = [line for line in errors.splitlines() if "cannot read" in line]
    assert complaints == [f"cannot read {broken}: expected an image, got a file of another kind"]
    manifest = json.loads((tmp_path / "some" / "manifest.json").read_text())
    assert [entry["file"] for entry in manifest] == [str(photographs / f"0{index}.png") for index in (1, 2)]
    assert "2 explanations" in output


def test_nothing_explained_never_reads_like_a_success(tame, toy_explainer, tmp_path):
    (tmp_path / "two\nlines.jpg").write_text("text")
    status, output, errors = tame(
        *EXPLAIN, tmp_path / "two\nlines.jpg", "--backbone", "toy_cnn", "--checkpoint", toy_explainer
    )
    assert (status, output) == (1, "Nothing was explained: none of 1 images could be read\n")
    assert last_line(errors).endswith(r"two\nlines.jpg: expected an image, got a file of another kind")


def test_file_names_are_printed_on_one_line_of_utf_8(tame, toy_explainer, photographs, tmp_path):
    (tmp_path / "odd").mkdir()
    for name in (b"two\nlines.png", b"\x1b[2Jgone.png", b"\xff.png"):
        shutil.copy(photographs / "00.png", tmp_path / "odd" / os.fsdecode(name))
    (tmp_path / "odd" / "not\tan\x1b[2Jimage.png").write_text("text")
    status, output, errors = tame(
        *EXPLAIN, tmp_path / "odd", "--backbone", "toy_cnn", "--checkpoint", toy_explainer, "--out", "o\x1b[2J"
    )
    assert status == 1
    *lines, last = output.splitlines()
    names = [line.partition(": ")[0].rpartition("/")[2] for line in lines]
    assert names == [r"\x1b[2Jgone.png", r"two\nlines.png", r"\udcff.png"]
    assert last == r"3 explanations: overlays, maps and manifest.json are in o\x1b[2J"
    (complaint,) = [line for line in errors.splitlines() if "cannot read" in line]
    assert complaint.endswith(r"not\tan\x1b[2Jimage.png: expected an image, got a file of another kind")
    assert "\x1b[2J" not in output + errors
    output.encode("utf-8")
    manifest = json.loads((tmp_path / "o\x1b[2J" / "manifest.json").read_text())
    assert [os.fsencode(entry["file"]).rpartition(b"/")[2] for entry in manifest][1:] == [
        b"two\nlines.png",
        b"\xff.png",
    ]
    for entry in manifest:
        assert (tmp_path / "o\x1b[2J" / entry["map"]).is_file()
        assert (entry["map"] + entry["overlay"]).isprintable()


def test_an_address_is_one_clear_line(tame):
    status, _, errors = tame(*EXPLAIN, "https://example.org/cat.jpg")
    assert status == 2
    assert last_line(errors).startswith("tame explain: expected an image file, got the address https:/")


def test_dashes_underscores_and_equal_signs_mean_the_same(tame, toy_explainer, photographs):
    manifests = []
    for index, option in enumerate([["--batch-size", "2"], ["--batch_size", "2"], ["--batch-size=2"]]):
        status, _, errors = tame(
            *EXPLAIN,
            photographs / "00.png",
            "--backbone",
            "toy_cnn",
            "--checkpoint",
            toy_explainer,
            "--out",
            index,
            *option,
        )
        assert status == 0, errors
        manifests.append(Path(str(index), "manifest.json").read_text())
    assert manifests[0] == manifests[1] == manifests[2]


def test_options_from_a_file(tame, toy_explainer, photographs, tmp_path):
    config = tmp_path / "options.yaml"
    lines = ["backbone: toy_cnn", f"checkpoint: {toy_explainer}", "out: from file", f"images: [{photographs}/03.png]"]
    config.write_text("\n".join([*lines, "target: [dog, '3']"]))
    status, output, errors = tame(*EXPLAIN, "--config", config)
    assert status == 0, errors
    manifest = json.loads((tmp_path / "from file" / "manifest.json").read_text())
    assert [(Path(entry["file"]).name, entry["target"]) for entry in manifest] == [("03.png", 1), ("03.png", 3)]
    status, output, errors = tame(*EXPLAIN, photographs / "04.png", "--config", config, "--target=0", "--out", "more")
    assert status == 0, errors
    manifest = json.loads((tmp_path / "more" / "manifest.json").read_text())
    assert [(Path(entry["file"]).name, entry["target"]) for entry in manifest] == [("04.png", 0)]
    status, _, errors = tame(*EXPLAIN, "--config", "nowhere.yaml")
    assert status == 2 and "nowhere.yaml" in errors and "Traceback" not in errors


def test_nothing_of_a_checkpoint_is_needed_but_its_folder(tame, toy_explainer, photographs, tmp_path):
    shutil.copytree(toy_explainer, tmp_path / "moved")
    shutil.rmtree(toy_explainer)
    status, _, errors = tame(
        *EXPLAIN, photographs / "00.png", "--backbone", "toy_cnn", "--checkpoint", tmp_path / "moved"
    )
    assert status == 0, errors
