"""`tame train`, `evaluate`, `compare` and `table` from the command line, end to end on a toy classifier."""

import json
import shlex
import sys

import pytest

from tame.checkpoints.native import read_metadata

TOY = ("--backbone", "toy_cnn", "--device", "cpu", "--num-workers", "0")
TRAIN = ("train", *TOY, "--init-images", "4")
EVALUATE = ("evaluate", *TOY)
EARLIER = {  # what `tame train` wrote as config.json before options were None where they are unset
    "data": "", "lists": "", "limit_images": 0, "backbone": "toy_cnn", "weights": "", "num_classes": 0,
    "class_names": "", "input_size": "", "mean": "", "std": "", "layers": "stage1,stage2", "preset": "tame",
    "device": "cpu", "precision": "auto", "seed": 0, "num_workers": 0, "resume": True, "train_list": "", "val_list": "",
    "per_label": 0, "limit_val_images": 0, "out": "", "attention": "ttame", "init": "", "init_images": 4,
    "trainable": "", "loss": "", "masking": "", "epochs": 0, "batch_size": 0, "lr": 0.0, "clip": 0.0, "devices": 1,
    "num_nodes": 1, "strategy": "auto",
}  # fmt: skip
EXPLAIN = ("explain", "--device", "cpu", "--num-workers", "0")


def test_train_explain_evaluate_table(tame, toy_backbone, photographs, tmp_path):
    status, output, errors = tame(*TRAIN, "--data", photographs, "--out", "run", "--batch-size", "8")
    assert status == 0, errors
    assert output.strip().endswith("use it with: tame explain --checkpoint run")
    assert "val/rank/AD_50" in read_metadata("run")["metrics"]
    status, _, errors = tame("explain", photographs, *TOY, "--checkpoint", "run")
    assert status == 0, errors
    assert len(json.loads((tmp_path / "explanations" / "manifest.json").read_text())) == 24
    for method, title, more in ("ttame", "T-TAME", ["--checkpoint", "run"]), ("gradcam", "Grad-CAM", []):
        status, output, errors = tame(
            "evaluate", "--data", photographs, *TOY, "--method", method, *more, "--limit-images", "6"
        )
        assert status == 0, errors
        assert "AD" in output and f"| {title} " in output
    runs = [f"evaluations/toy_cnn/{method}" for method in ("ttame", "gradcam")]
    status, output, errors = tame("table", *runs, "--reference", "ttame")
    assert status == 0, errors
    assert "T-TAME" in output and "Grad-CAM" in output
    status, output, _ = tame("table", *runs, "--format", "csv", "--out", "table.csv")
    assert status == 0 and (tmp_path / "table.csv").read_text().count("\n") >= 3


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
    status, _, errors = tame(*arguments)
    assert status == 2
    assert errors.splitlines()[-1].startswith("tame evaluate: run holds a run with other settings: metrics ")


@pytest.mark.parametrize(
    ("preset", "caption"),
    [
        ("tame", "masking cnn, IC margin 1e-05, ROAD read as confidence"),
        ("paper", "masking cnn, IC margin 0, ROAD read as confidence"),
        ("released", "masking cnn, IC margin 0, road_selection percentile, road_space network, ROAD read as kept"),
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
        assert "| red " in output and (tmp_path / "evaluations/toy_cnn/users_own.red/summary.json").is_file()
        status, _, errors = tame(
            *EXPLAIN, photographs / "00.png", "--backbone", "toy_cnn", "--method", "users_own:red", "--target", "dog"
        )
        assert status == 0, errors
        (entry,) = json.loads((tmp_path / "explanations" / "manifest.json").read_text())
        assert (entry["method"], entry["class_name"]) == ("users_own:red", "dog")
    finally:
        sys.modules.pop("users_own", None)


def test_arguments_of_methods_reach_them_and_the_record(tame, toy_backbone, photographs, tmp_path):
    common = (*TOY, "--data", photographs, "--limit-images", "3")
    status, _, errors = tame("evaluate", *common, "--method", "rise", "--rise.masks", "7", "--out", "run")
    assert status == 0, errors
    settings = json.loads((tmp_path / "run" / "summary.json").read_text())["settings"]
    assert settings["arguments"] == {"masks": 7}
    rows = (tmp_path / "run" / "rows.csv").read_text().splitlines()
    column = rows[0].split(",").index("explain_forward")
    assert float(rows[1].split(",")[column]) == 7
    status, _, errors = tame("evaluate", *common, "--method", "gradcam", "--gradcam.layer", "stage2", "--out", "cam")
    assert status == 0, errors
    settings = json.loads((tmp_path / "cam" / "summary.json").read_text())["settings"]
    assert settings["arguments"] == {"layer": "stage2"}
    status, _, errors = tame("evaluate", *common, "--method", "gradcam", "--gradcam.layer", "stage9", "--out", "no")
    assert status == 2 and "stage9" in errors.splitlines()[-1] and not (tmp_path / "no").exists()


def test_compare(tame, toy_explainer, photographs, tmp_path):
    arguments = ("compare", *TOY, "--data", photographs, "--limit-images", "4", "--out", "all", "--report", "page")
    methods = ("--methods", f"gradcam,rise,ttame@{toy_explainer}", "--rise.masks", "5", "--report-images", "1")
    status, output, errors = tame(*arguments, *methods)
    assert status == 0, errors
    assert output.startswith((tmp_path / "all" / "table.md").read_text().rstrip("\n"))
    assert output.endswith("Tables, curves and the runs are in all\n")
    assert "| T-TAME " in output and "| RISE " in output and "verdict" in output
    assert (tmp_path / "page" / "report.html").is_file()
    assert {path.name for path in (tmp_path / "all").iterdir()} >= {"gradcam", "rise", "ttame-toy run", "table.tex"}
    again = tame(*arguments, *methods)
    assert again[:2] == (0, output)
    status, _, errors = tame(*arguments, "--methods", "gradcam,gradcam")
    assert status == 2 and "gradcam, gradcam" in errors.splitlines()[-1]


def test_quiet_shows_results_only(tame, toy_backbone, photographs):
    status, output, errors = tame(*EVALUATE, "--data", photographs, "--method", "centre", "--limit-images", "2", "-q")
    assert (status, errors) == (0, "")
    assert output.startswith("toy_cnn ")


def test_a_run_is_repeated_by_its_config(tame, toy_backbone, photographs, tmp_path):
    status, _, errors = tame(
        *TRAIN, "--data", photographs, "--out", "first", "--epochs", "0", "--layers", "stage2,stage3"
    )
    assert status == 0, errors
    status, output, errors = tame("train", "--config", "first/config.json", "--out", "second")
    assert status == 0, errors
    assert output.startswith("The explainer is in second; ")
    first, second = ((tmp_path / run / "attention.safetensors").read_bytes() for run in ("first", "second"))
    assert first == second
    assert read_metadata("second")["layers"] == ["stage2", "stage3"]


def test_a_config_of_an_earlier_version(tame, toy_backbone, photographs, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(EARLIER | {"data": str(photographs), "out": "old run"}))
    status, output, errors = tame("train", "--config", "config.json")
    assert status == 0, errors
    assert "config.json was written by an earlier version: what is empty, 0 or -1 there is read as unset." in errors
    assert output.endswith("tame explain --checkpoint 'old run'\n")
    metadata = read_metadata("old run")
    assert (metadata["epoch"], metadata["choices"]["batch_size"], metadata["layers"]) == (0, 16, ["stage1", "stage2"])


def test_the_printed_command_names_all_that_the_classifier_needs(tame, toy_backbone, photographs, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    status, output, errors = tame(
        *TRAIN, "--data", photographs, "--epochs", "0", "--attention", "lcam-fm", "--class-names", "names.txt",
        "--weights", "random", "--out", "run",
    )  # fmt: skip
    assert status == 0, errors
    command = "tame explain --method lcam_fm --checkpoint run"
    assert output == f"The explainer is in run; use it with: {command}\n"
    status, _, errors = tame(*shlex.split(command)[1:], photographs / "00.png", "--target", "c", "--device", "cpu")
    assert status == 0, errors


def test_lr_find(tame, toy_backbone, photographs, tmp_path):
    status, output, errors = tame(
        "lr-find",
        *TOY,
        "--init-images",
        "4",
        "--data",
        photographs,
        "--steps",
        "10",
        "--batch-size",
        "4",
        "--out",
        "curve",
    )
    assert status == 0, errors
    assert output.endswith("The curve is in curve: lr_find.png and lr_find.csv\n")
    assert output.startswith(("Suggested learning rate: --lr ", "No learning rate can be suggested: "))
    assert (tmp_path / "curve" / "lr_find.csv").is_file()
    status, _, errors = tame("lr-find", *TOY, "--data", photographs, "--min-lr", "1", "--max-lr", "0.1")
    assert (status, errors.splitlines()[-1]) == (2, "tame lr-find: expected 0 < min_lr < max_lr, got 1 and 0.1")


def test_convert(tame, tmp_path):
    (tmp_path / "no checkpoint.ckpt").write_text("text")
    status, _, errors = tame("convert", "no checkpoint.ckpt")
    assert status == 2 and errors.startswith("tame convert: expected a checkpoint of the authors' programs")
    status, _, errors = tame("import", "no checkpoint.ckpt")
    assert status == 2 and errors.startswith("tame import: expected a checkpoint of the authors' programs")
