"""What a command refuses before it loads anything: numbers out of range, and places that cannot be written to."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--lr", "-1"], "expected --lr above 0, got -1.0"),
        (["train", "--lr", ".nan"], "expected --lr above 0, got nan"),
        (["train", "--epochs", "-2"], "expected --epochs of at least 0, got -2"),
        (["train", "--clip", "-1"], "expected --clip of at least 0, got -1.0"),
        (["train", "--seed", "-1"], "expected --seed from 0 to 4294967295, got -1"),
        (["train", "--seed", str(2**64)], "expected --seed from 0 to 4294967295, got 18446744073709551616"),
        (["train", "--devices", "0"], "expected --devices from 1 to "),
        (["train", "--devices", "-1"], "expected --devices from 1 to "),
        (["evaluate", "--devices", "500"], "expected --devices from 1 to "),
        (["train", "--num-nodes", "0"], "expected --num-nodes from 1 to 65536, got 0"),
        (["train", "--num-workers", "-1"], "expected --num-workers from 0 to "),
        (["explain", "--num-workers", "100000"], "expected --num-workers from 0 to "),
        (["train", "--per-label", "0"], "expected --per-label of at least 1, got 0"),
        (["train", "--precision", "16-mixed", "--device", "cpu"], "expected the precision 32 or bf16-mixed on the CPU"),
        (["lr-find", "--min-lr", "0"], "expected --min-lr above 0, got 0.0"),
        (["compare", "--report-images", "-1"], "expected --report-images of at least 0, got -1"),
        (["table", "x", "--seed", "-1"], "expected --seed from 0 to "),
        (["inspect", "resnet18", "--num-classes", "-1"], "expected --num-classes from 1 to 1000000, got -1"),
        (["inspect", "resnet18", "--num-classes", "9" * 30], "expected --num-classes from 1 to 1000000, got 99999"),
        (["explain", "--rise.masks", "0"], "expected --rise.masks of at least 1, got 0"),
        (["explain", "--iia.steps", "-1"], "expected --iia.steps from 1 to 100000, got -1"),
        (
            ["explain", "--input-size", "1000000"],
            "expected input_size of 1 to 8192 pixels, a number or (height, width)",
        ),
        (["explain", "--target", "9" * 5000], "expected a class index in 0..999, got 999999999999999999999999999999"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(tame, monkeypatch, arguments, message):
    def load(*_, **__):
        raise AssertionError("the classifier was loaded")

    monkeypatch.setattr("tame.backbones.load.load_network", load)
    status, output, errors = tame(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith(f"tame {arguments[0]}: {message}"), errors
    assert len(errors.splitlines()) == 1 and len(errors) < 300


def test_a_file_in_the_place_of_a_folder(tame, tmp_path):
    (tmp_path / "file").write_text("mine")
    for option, name in (("--out", "explain"), ("--out", "train"), ("--report", "compare"), ("--out", "convert")):
        for path, above in (("file", "file"), ("file/run", "file"), (tmp_path / "file/a/b", tmp_path / "file")):
            status, _, errors = tame(name, option, path)
            assert (status, errors) == (
                2,
                f"tame {name}: expected a folder as {option}, got {path}: {above} is a file\n",
            )
    status, _, errors = tame("table", "x", "--out", ".")
    assert (status, errors) == (2, "tame table: expected a file as --out, got the folder .\n")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_is_read_only(tame, monkeypatch, tmp_path):
    (tmp_path / "fixed").mkdir()
    monkeypatch.setattr("tame.cli.checks.os.access", lambda path, mode: str(path) != "fixed")
    status, output, errors = tame("train", "--out", "fixed/run/mine")
    assert (status, output) == (1, "")
    assert (
        errors == "tame train: fixed: it cannot be written to; what is finished is kept, and the same command resumes\n"
    )
    assert list((tmp_path / "fixed").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "os:sep"], "expected package.module:function as the backbone, got 'os:sep', a str"),
        (["--backbone", "sys:exit"], "sys:exit could not be built: SystemExit:"),
        (["--backbone", "timm:resnet18.x"], "timm has no classifier 'resnet18.x'; its weights: resnet18.a1_in1k, "),
        (["--method", "os:sep"], "expected package.module:function as the method, got 'os:sep', a str"),
        (["--method", "json:loads"], "json:loads failed: TypeError: the JSON object must be str, bytes or bytearray"),
        (["--method", "own_code:fail"], "own_code:fail failed: ZeroDivisionError: division by zero"),
    ],
)
def test_code_of_ones_own_that_is_none_or_fails(tame, toy_backbone, tmp_path, options, message):
    if any(option.startswith("timm:") for option in options):
        pytest.importorskip("timm")
    (tmp_path / "own_code.py").write_text("def fail(images, targets): return 1 / 0")
    backbone = [] if "--backbone" in options else ["--backbone", toy_backbone]
    status, output, errors = tame("explain", "--device", "cpu", "--num-workers", "0", *backbone, *options)
    assert (status, output) == (2, "")
    assert errors.splitlines()[-1].startswith(f"tame explain: {message}") and "Traceback" not in errors
