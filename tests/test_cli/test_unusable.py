"""Unusable input: exit status 2, one sentence, nothing half-written."""

import pytest
import torch

from tame.inference import bundled_images

TRAIN = ("train", "--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0", "--init-images", "4")
EXPLAIN = ("explain", "--device", "cpu", "--num-workers", "0")
EVALUATE = ("evaluate", "--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0")


def last_line(errors):
    """Return what is said last; messages before it say what was done."""
    return errors.strip().splitlines()[-1]


def list_of(folder, lines):
    file = folder / "list.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def refused(result, name, message, tmp_path):
    """Check for one sentence and for no explainer, complete or partial."""
    status, _, errors = result
    assert status == 2, errors
    assert "Traceback" not in errors
    assert last_line(errors).startswith(f"tame {name}: "), errors
    assert message in last_line(errors)
    assert not list(tmp_path.glob("run/**/*.safetensors")) + list(tmp_path.glob("**/.*.tmp"))


BAD_TRAINING = {
    "no DATA": ([], [], "expected a folder of images: name it with data, or set DATA in the environment or in .env"),
    "missing DATA": (["--data", "nowhere"], [], "expected a folder as data, got 'nowhere'"),
    "empty list": (
        ["--data", "photographs"],
        [""],
        "expected at least one line 'path label' in list.txt, got an empty",
    ),
    "no label": (["--data", "photographs"], ["00.png 1", "01.png"], "list.txt, line 2: expected 'path label'"),
    "label": (["--data", "photographs"], ["00.png 5"], "list.txt, line 1: expected a label in 0..4, got 5"),
    "missing image": (["--data", "photographs"], ["00.png 1", "", "no.png 1"], "list.txt, line 3: expected the image"),
    "preset": (["--preset", "releasd"], [], "unknown preset 'releasd'; did you mean 'released'?"),
    "backbone": (["--backbone", "resnet5"], [], "unknown backbone 'resnet5'; did you mean 'resnet"),
    "precision": (["--precision", "16-mixed"], [], "expected the precision 32 or bf16-mixed on the CPU"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_training_on_unusable_input(tame, toy_backbone, photographs, tmp_path, case):
    options, lines, message = BAD_TRAINING[case]
    if lines:
        options = [*options, "--train-list", list_of(tmp_path, lines).name]
    result = tame(*TRAIN, "--out", "run", *options)
    refused(result, "train", message, tmp_path)
    assert len(result[2].strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "content"), [("cut.jpg", None), ("text.jpg", b"this is no photograph")])
@pytest.mark.parametrize("epochs", [0, 1])
def test_training_on_an_unreadable_photograph(tame, toy_backbone, photographs, tmp_path, name, content, epochs):
    whole = bundled_images()[0].read_bytes()
    for index in range(23):
        (photographs / f"{index:02}.png").unlink()
    (photographs / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    (photographs / f"second {name}").write_bytes(whole[: len(whole) // 2] if content is None else content)
    result = tame(*TRAIN, "--data", "photographs", "--out", "run", "--epochs", epochs)
    refused(result, "train", "cannot read photographs/", tmp_path)
    assert name in last_line(result[2])


def test_a_checkpoint_of_another_backbone(tame, toy_explainer, tmp_path):
    lite = ("--backbone", "efficientnet_lite0")
    result = tame(*EXPLAIN, *lite, "--checkpoint", toy_explainer, "--out", "explained", "--layers", "proposed")
    refused(result, "explain", "was trained for backbone toy_cnn, not efficientnet_lite0", tmp_path)
    result = tame(*EXPLAIN, *lite, "--checkpoint", toy_explainer, "--out", "explained")
    refused(result, "explain", "was trained for backbone toy_cnn, not efficientnet_lite0", tmp_path)
    assert not (tmp_path / "explained").exists()


BAD_EXPLAINING = {
    "method": (["--method", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "backbone": (["--backbone", "toy"], "unknown backbone 'toy'"),
    "preset": (["--preset", "papre"], "unknown preset 'papre'; did you mean 'paper'?"),
    "checkpoint": (["--checkpoint", "nowhere"], "no checkpoint at nowhere"),
    "none shipped": (
        ["--method", "ttame"],
        "no explainer for toy_cnn comes with this package: train one with `tame train",
    ),
    "file": (["nowhere.jpg", "--method", "gradcam"], "got nowhere.jpg, which does not exist"),
    "top": (["--top", "0", "--method", "gradcam"], "expected --top of at least 1, got 0"),
    "layers": (["--layers", "stage9", "--method", "gradcam"], "stage9"),
    "weights": (["--weights", "nowhere.pth", "--method", "gradcam"], "no weights 'nowhere.pth' for toy_cnn"),
}


@pytest.mark.parametrize("case", BAD_EXPLAINING)
def test_explaining_with_unusable_input(tame, toy_backbone, tmp_path, case):
    options, message = BAD_EXPLAINING[case]
    result = tame(*EXPLAIN, "--backbone", "toy_cnn", *options)
    refused(result, "explain", message, tmp_path)
    assert list(tmp_path.iterdir()) == []


BAD_EVALUATING = {
    "metrics": (
        ["--metrics", "ad-ic,roda"],
        "unknown metric 'roda'; did you mean 'road'? Known: ad-ic, road, insertion, deletion",
    ),
    "metric twice": (["--metrics", "road,road"], "each once, got road, road"),
    "map scaling": (["--map-scaling", "max"], "expected --map-scaling of minmax, rank, separated by commas, got 'max'"),
    "steps": (["--metrics", "deletion", "--steps", "0"], "expected --steps from 1 to 100000, got 0"),
    "method": (["--method", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "own method": (["--method", "nowhere:f"], "package.module:function as the method, cannot import 'nowhere:f'"),
    "maps": (["--maps", "nowhere"], "expected a folder of maps, got nowhere"),
    "no maps": (["--maps", "photographs"], "photographs lacks the maps of 24 of 24 images, such as 00.npy"),
    "labels": (["--only", "correct"], "only correct: expected a list with the labels of all images, got some without"),
    "list": (["--list", "nowhere.txt"], "expected a list of images, got 'nowhere.txt'"),
    "limit": (["--limit-images", "-1"], "expected --limit-images of at least 1, got -1"),
    "batch size": (["--batch-size", "0"], "expected --batch-size of at least 1, got 0"),
    "rows": (["--pass-rows", "-1"], "expected --pass-rows of at least 1, got -1"),
    "devices": (["--devices", "0"], "expected --devices from 1 to "),
    "precision": (["--precision", "16-mixed"], "expected the precision 32 or bf16-mixed on the CPU"),
}


@pytest.mark.parametrize("case", BAD_EVALUATING)
def test_evaluating_with_unusable_input(tame, toy_backbone, photographs, tmp_path, case):
    options, message = BAD_EVALUATING[case]
    result = tame(*EVALUATE, "--data", "photographs", "--method", "centre", "--out", "run", *options)
    refused(result, "evaluate", message, tmp_path)
    assert result[1] == "" and len(result[2].strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_checkpoint(tame, toy_backbone, tmp_path):
    (tmp_path / "attention.safetensors").write_bytes(b"\x10")
    result = tame(*EXPLAIN, "--backbone", "toy_cnn", "--checkpoint", ".")
    refused(result, "explain", "attention.safetensors is no checkpoint of an attention mechanism", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["explain", "train", "evaluate"])
def test_cuda_where_there_is_none(tame, toy_backbone, photographs, tmp_path, name):
    more = [] if name == "explain" else ["--data", photographs]
    result = tame(name, "--backbone", "toy_cnn", "--device", "cuda", "--out", "run", *more)
    refused(result, name, "got 'cuda', which is not available", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--metrics", ","], "expected --metrics of names between commas, got ','"),
        (
            ["evaluate", "--map-scaling", "minmx"],
            "expected --map-scaling of minmax, rank, separated by commas, got 'minmx'",
        ),
        (["evaluate", "--preset", "releasd"], "unknown preset 'releasd'; did you mean 'released'?"),
        (["evaluate", "--data", "nowhere"], "expected a folder as data, got 'nowhere'"),
        (["list", "metric"], "cannot list 'metric'; expected backbones, methods, metrics, presets, attention"),
        (["table", "nowhere"], "nowhere"),
        (["table"], "got none"),
        (["convert"], "expected FILE, for example: tame convert vit_b_16.ckpt"),
        (["compare", "--methods", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    ],
)
def test_other_commands_with_unusable_input(tame, tmp_path, arguments, message):
    refused(tame(*arguments), arguments[0], message, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--batch-sise", "31"], "unknown option --batch-sise; did you mean --batch-size?"),
        (["train", "--batch_sise=31"], "unknown option --batch_sise; did you mean --batch_size?"),
        (["train", "--batch", "31"], "unknown option --batch; did you mean --batch-size?"),
        (["train", "--epochs", "many"], "expected --epochs as a whole number, got 'many'"),
        (["train", "--epochs", "2.5"], "expected --epochs as a whole number, got '2.5'"),
        (["train", "--lr", "fast"], "expected --lr as a number, got 'fast'"),
        (["train", "--resume", "maybe"], "expected --resume true or false, got 'maybe'"),
        (["train", "--mean", "0.5,x"], "expected --mean of numbers between commas, got '0.5,x'"),
        (["train", "--epochs"], "expected a value after --epochs"),
        (["train", "photos/"], "unexpected argument 'photos/': every value needs its option"),
        (["train", ""], "unexpected argument '': every value needs its option"),
        (["inspect", "resnet18", ""], "unexpected argument '': expected one MODEL"),
        (["train", "--target", "281"], "unknown option --target"),
        (["lr-find", "--epochs", "3"], "unknown option --epochs"),
        (["explain", "--device", "gpu"], "expected --device auto, cpu, cuda or mps, got 'gpu'"),
        (["explain", "a.jpg", "--top", "3", "b.jpg"], "unexpected argument 'b.jpg': name all IMAGES together"),
        (["explain", "--rise.mask", "3"], "unknown option --rise.mask; did you mean --rise.masks?"),
        (["explain", "--rise-masks", "3"], "unknown option --rise-masks; did you mean --rise.masks?"),
        (["explain", "--rise.masks", "few"], "expected --rise.masks as a whole number, got 'few'"),
        (["explain", "--rise.weighting", "loss"], "expected --rise.weighting confidence or logit, got 'loss'"),
    ],
)
def test_the_parser_says_in_one_line_what_it_does_not_take(tame, arguments, message):
    status, output, errors = tame(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith(f"tame {arguments[0]}: {message}")
    assert len(errors.splitlines()) == 1
