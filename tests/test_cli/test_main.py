"""The command line as a user meets it: exit status, standard output, one sentence on standard error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tame import __version__
from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.native import read_metadata, save_attention
from tame.cli.main import COMMANDS, main
from tame.inference import bundled_photographs


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    """Neither DATA nor LIST of this machine, and relative paths below a fresh folder."""
    for variable in "DATA", "LIST":
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tame(capfd):
    """Run ``tame ...``; return the exit status, standard output and standard error."""

    def run(*arguments):
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:  # of the parser
            status = error.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def explainer(tmp_path_factory):
    """Return a checkpoint for EfficientNet-Lite0, at random."""
    classifier = load_backbone("efficientnet_lite0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attention = build_attention("ttame", classifier.channels, 1000)
    details = {"attention": "ttame", "output_size": "largest"}
    return save_attention(tmp_path_factory.mktemp("lite"), ExplainedClassifier(classifier, attention), details)


@pytest.fixture
def toy_explainer(tame, toy_backbone, photographs, tmp_path):
    """Return a checkpoint for the toy backbone, made by the command line itself."""
    out = tmp_path / "toy run"
    status, _, errors = tame(*TRAIN, "--data", photographs, "--out", out, "--epochs", "0")
    assert status == 0, errors
    return out


TRAIN = ("train", "--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0", "--init-images", "4")
EXPLAIN = ("explain", "--device", "cpu", "--num-workers", "0")


def last_line(errors):
    """Return what is said last; messages before it say what was done."""
    return errors.strip().splitlines()[-1]


# --- help, names


def test_overview_in_a_fresh_process_is_quick():
    code = "import sys, tame.cli; tame.cli.main(['--help']); print('torch' in sys.modules, 'lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("False False\n"), done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_overview(tame, arguments):
    status, output, _ = tame(*arguments)
    assert status == 0
    assert output.startswith("usage: tame COMMAND [OPTIONS]")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_explains_its_options(tame, name):
    status, output, _ = tame(name, "--help")
    assert status == 0
    assert f"usage: tame {name}" in output
    expected = {
        "explain": ["--target", "--top", "--checkpoint", "images", "Classes to explain"],
        "train": ["--data", "--epochs", "--attention", "Passes over the training images", "default: tame"],
        "evaluate": ["--map_scaling", "--method", "Readings of the maps", "--only", "--maps", "in place of a method"],
        "table": ["--reference", "runs", "paired bootstrap"],
        "inspect": ["model", "--all", "--input_size", "nothing is downloaded to look at layers", "default: random"],
        "list": ["kinds", "backbones, methods"],
    }.get(name, ["--config"])
    words = " ".join(output.split())
    assert [text for text in expected if text not in words] == []


def test_version(tame):
    assert tame("--version")[:2] == (0, f"{__version__}\n")


def test_inspect_shows_layers_and_a_line_to_paste(tame, toy_backbone):
    status, output, _ = tame("inspect", toy_backbone)
    assert status == 0
    assert output.startswith("toy_cnn: 5 classes, input 3 x 32 x 32, ")
    assert output.endswith("\nproposed feature layers: stage1,stage2,stage3\n")
    assert "stage1.0" not in output and "stage1.0" in tame("inspect", toy_backbone, "--all")[1]
    assert "input 3 x 48 x 64, " in tame("inspect", "--input-size", "48x64", toy_backbone)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "tame inspect: expected one classifier to inspect, got 0: tame inspect resnet50"),
        (["resnet18", "vgg11"], "tame inspect: expected one classifier to inspect, got 2: tame inspect resnet50"),
        (["resnet19"], "'resnet19'"),
        (["resnet18", "--input-size", "big"], "expected --input-size in pixels, one number or HEIGHTxWIDTH, got 'big'"),
    ],
)
def test_inspect_of_nothing_known(tame, arguments, message):
    status, output, errors = tame("inspect", *arguments)
    assert (status, output) == (2, "") and message in errors and len(errors.splitlines()) == 1


def test_list(tame):
    status, output, _ = tame("list")
    assert status == 0
    lines = dict(line.split(": ") for line in output.strip().splitlines())
    assert {"resnet50", "vgg16", "vit_b_16", "efficientnet_lite0"} <= set(lines["backbones"].split(", "))
    assert lines["presets"] == "paper, released, tame"
    assert {"ttame", "gradcam"} <= set(lines["methods"].split(", "))
    assert lines["metrics"] == "ad-ic, road, insertion, deletion"
    assert tame("list", "presets", "attention")[1].splitlines() == [
        "presets: paper, released, tame",
        f"attention: {lines['attention']}",
    ]


# --- explain


def test_explaining_bundled_photographs(tame, explainer, tmp_path):
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
    chelsea = next(path for path in bundled_photographs() if path.name == "chelsea.jpg")
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


# --- train, then use


def test_train_explain_evaluate_table(tame, toy_backbone, photographs, tmp_path):
    status, output, errors = tame(*TRAIN, "--data", photographs, "--out", "run", "--batch-size", "8")
    assert status == 0, errors
    assert output.strip().endswith("use it with: tame explain --backbone toy_cnn --checkpoint run")
    assert "val/rank/AD_50" in read_metadata("run")["metrics"]
    common = ("--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0")
    status, _, errors = tame("explain", photographs, *common, "--checkpoint", "run")
    assert status == 0, errors
    assert len(json.loads((tmp_path / "explanations" / "manifest.json").read_text())) == 24
    for method, more in ("ttame", ["--checkpoint", "run"]), ("gradcam", []):
        status, output, errors = tame(
            "evaluate", "--data", photographs, *common, "--method", method, *more, "--limit-images", "6"
        )
        assert status == 0, errors
        assert "AD" in output and method in output
    runs = [f"evaluations/toy_cnn/{method}" for method in ("ttame", "gradcam")]
    status, output, errors = tame("table", *runs, "--reference", "ttame")
    assert status == 0, errors
    assert "ttame" in output and "gradcam" in output
    status, output, _ = tame("table", *runs, "--format", "csv", "--out", "table.csv")
    assert status == 0 and (tmp_path / "table.csv").read_text().count("\n") >= 3


EVALUATE = ("evaluate", "--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0")


def test_all_metrics_end_to_end(tame, toy_backbone, photographs, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{index:02}.png {index % 5}\n" for index in range(7)))
    arguments = (*EVALUATE, "--data", photographs, "--method", "gradcam", "--list", "list.txt", "--out", "run")
    status, output, errors = tame(*arguments, "--metrics", "ad-ic,road,insertion,deletion", "--steps", "4")
    assert status == 0, errors
    for words in (
        "AD 100 %",
        "IC 15 %",
        "MoRF",
        "LeRF",
        "Insertion",
        "Deletion",
        "top1 accuracy ",
        "top5 accuracy 100.00 %",
    ):
        assert words in output
    assert "seconds per image: " in output and " to classify" in output
    assert output.endswith("A row per image and the summary are in run\n")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {"rank/AG_50", "road/morf_kept_90", "insertion/AUC", "deletion/AUC"} <= set(summary["metrics"])
    lines = (tmp_path / "run" / "rows.csv").read_text().splitlines()
    assert len(lines) == 8 and {"lerf_70_kept", "insertion_4_p", "deletion_0_p"} <= set(lines[0].split(","))
    again = tame(*arguments, "--metrics", "ad-ic,road,insertion,deletion", "--steps", "4")
    assert again[:2] == (0, output)  # read back, seconds and all
    refused(tame(*arguments), "evaluate", "run holds a run with other settings: metrics ", tmp_path)


@pytest.mark.parametrize(
    ("preset", "caption"),
    [
        ("tame", "masking cnn, IC margin 1e-05, ROAD read as confidence"),
        ("paper", "masking cnn, IC margin 0, ROAD read as confidence"),
        ("released", "masking cnn, IC margin 0, ROAD read as kept"),
    ],
)
def test_what_a_preset_reports(tame, toy_backbone, photographs, tmp_path, preset, caption):
    status, output, errors = tame(
        *EVALUATE, "--data", photographs, "--method", "centre", "--metrics", "ad-ic,road", "--preset", preset, "--out",
        "run", "--limit-images", "3",
    )  # fmt: skip
    assert status == 0, errors
    assert caption in output
    settings = json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]
    assert settings["road_selection"] == ("percentile" if preset == "released" else "exact")


def test_half_precision_is_recorded(tame, toy_backbone, photographs, tmp_path):
    status, output, errors = tame(
        *EVALUATE, "--data", photographs, "--method", "gradcam", "--precision", "bf16-mixed", "--out", "run"
    )
    assert status == 0, errors
    assert "IC margin 0.01" in output and "bf16-mixed" in output
    settings = json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]
    assert (settings["precision"], settings["ic_margin"]) == ("bf16-mixed", 0.01)


def test_a_method_of_the_users_own(tame, toy_backbone, photographs, tmp_path):
    (tmp_path / "users_own.py").write_text("def red(images, targets):\n    return images[:, 0]\n")
    try:
        status, output, errors = tame(
            *EVALUATE, "--data", photographs, "--method", "users_own:red", "--limit-images", "3"
        )
        assert status == 0, errors
        assert "| users_own:red |" in output and (tmp_path / "evaluations/toy_cnn/users_own.red/summary.json").is_file()
        status, _, errors = tame(
            *EXPLAIN, photographs / "00.png", "--backbone", "toy_cnn", "--method", "users_own:red", "--target", "dog"
        )
        assert status == 0, errors
        (entry,) = json.loads((tmp_path / "explanations" / "manifest.json").read_text())
        assert (entry["method"], entry["class_name"]) == ("users_own:red", "dog")
    finally:
        sys.modules.pop("users_own", None)


# --- unusable input: exit status 2, one sentence, nothing half-written


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
    whole = bundled_photographs()[0].read_bytes()
    for index in range(23):
        (photographs / f"{index:02}.png").unlink()
    (photographs / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    (photographs / f"second {name}").write_bytes(whole[: len(whole) // 2] if content is None else content)
    result = tame(*TRAIN, "--data", "photographs", "--out", "run", "--epochs", epochs)
    refused(result, "train", "cannot read photographs/", tmp_path)
    assert name in last_line(result[2])


def test_a_checkpoint_of_another_backbone(tame, toy_explainer, tmp_path):
    result = tame(*EXPLAIN, "--checkpoint", toy_explainer, "--out", "explained", "--layers", "proposed")
    refused(result, "explain", "was trained for backbone toy_cnn, not efficientnet_lite0", tmp_path)
    result = tame(*EXPLAIN, "--checkpoint", toy_explainer, "--out", "explained")
    refused(result, "explain", "was trained for backbone toy_cnn, not efficientnet_lite0", tmp_path)
    assert not (tmp_path / "explained").exists()


BAD_EXPLAINING = {
    "method": (["--method", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "backbone": (["--backbone", "toy"], "unknown backbone 'toy'"),
    "preset": (["--preset", "papre"], "unknown preset 'papre'; did you mean 'paper'?"),
    "checkpoint": (["--checkpoint", "nowhere"], "no checkpoint at nowhere"),
    "none shipped": ([], "no explainer for toy_cnn comes with this package: train one with `tame train"),
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
    "metrics": (["--metrics", "ad-ic,roda"], "expected --metrics of ad-ic, road, insertion, deletion, separated by"),
    "map scaling": (["--map-scaling", "max"], "expected --map-scaling of minmax, rank, separated by commas, got 'max'"),
    "steps": (["--metrics", "deletion", "--steps", "0"], "expected insertion or deletion in at least one step"),
    "method": (["--method", "gradcan"], "unknown method 'gradcan'; did you mean 'gradcam'?"),
    "own method": (["--method", "nowhere:f"], "package.module:function as the method, cannot import 'nowhere:f'"),
    "maps": (["--maps", "nowhere"], "expected a folder of maps, got nowhere"),
    "no maps": (["--maps", "photographs"], "photographs lacks the maps of 24 of 24 images, such as 00.npy"),
    "labels": (["--only", "correct"], "expected a list with the labels of all images for --only correct"),
    "list": (["--list", "nowhere.txt"], "expected a list of images, got 'nowhere.txt'"),
    "limit": (["--limit-images", "-1"], "expected a number of images, 0 for all of them, got -1"),
    "batch size": (["--batch-size", "0"], "expected batch_size >= 1 and num_workers >= 0, got 0 and 0"),
    "rows": (["--pass-rows", "-1"], "expected rows per pass of 0 (as many as fit) or more, got -1"),
    "devices": (["--devices", "0"], "expected at least 1 device and 1 node, got 0 and 1"),
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
        (
            ["evaluate", "--metrics", "road2"],
            "expected --metrics of ad-ic, road, insertion, deletion, separated by commas, got 'road2'",
        ),
        (["evaluate", "--metrics", "road,road"], "separated by commas, got 'road,road'"),
        (["evaluate", "--metrics", ","], "separated by commas, got ','"),
        (
            ["evaluate", "--map-scaling", "minmx"],
            "expected --map-scaling of minmax, rank, separated by commas, got 'minmx'",
        ),
        (["evaluate", "--preset", "releasd"], "unknown preset 'releasd'; did you mean 'released'?"),
        (["evaluate", "--data", "nowhere"], "expected a folder as data, got 'nowhere'"),
        (["list", "metric"], "cannot list 'metric'; expected backbones, methods, metrics, presets, attention"),
        (["table", "nowhere"], "nowhere"),
        (["table"], "got none"),
    ],
)
def test_other_commands_with_unusable_input(tame, tmp_path, arguments, message):
    refused(tame(*arguments), arguments[0], message, tmp_path)


def test_an_unknown_command(tame):
    status, _, errors = tame("explian")
    assert status == 2
    assert errors.startswith("tame: unknown command 'explian'; expected one of explain, train, ")


@pytest.mark.parametrize(
    "arguments", [["train", "--batch-sise", "31"], ["train", "--epochs", "many"], ["explain", "--device", "gpu"]]
)
def test_the_parser_names_what_it_does_not_take(tame, arguments):
    status, _, errors = tame(*arguments)
    assert status == 2
    assert "Traceback" not in errors
    assert arguments[-1] in errors


def test_nothing_of_a_checkpoint_is_needed_but_its_folder(tame, toy_explainer, photographs, tmp_path):
    shutil.copytree(toy_explainer, tmp_path / "moved")
    shutil.rmtree(toy_explainer)
    status, _, errors = tame(
        *EXPLAIN, photographs / "00.png", "--backbone", "toy_cnn", "--checkpoint", tmp_path / "moved"
    )
    assert status == 0, errors
