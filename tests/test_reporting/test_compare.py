"""Several methods on one classifier, compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch import nn

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.classifier import load_classifier
from tame.checkpoints.native import save_attention
from tame.evaluation.records import open_run
from tame.explainers.cams import GradCAM
from tame.reporting.compare import compare
from tame.reporting.published import published_table
from tame.utils.checks import InputError


@pytest.fixture
def run(toy_backbone: str, photographs: Path, tmp_path: Path) -> Any:
    """Return a function that compares methods of the toy on nine images, in the folder ``out``."""

    def compare_here(*methods: str, **changes: Any) -> pd.DataFrame:
        arguments: dict[str, Any] = {
            "classifier": load_classifier(toy_backbone, weights="random", device="cpu"),
            "data": photographs,
            "out": tmp_path / "out",
            "limit_images": 9,
            "metrics": ["ad-ic", "road"],
            "progress": False,
        }
        return compare(methods or ("gradcam", "centre", "random"), **arguments | changes)

    return compare_here


def test_every_method_is_measured_on_the_same_images(run: Any, tmp_path: Path) -> None:
    frame = run(reference="gradcam")
    assert frame.index.tolist() == ["Grad-CAM", "Centre", "Random"] and frame["images"].tolist() == [9, 9, 9]
    assert frame.attrs["main_process"] and frame.attrs["folder"] == str(tmp_path / "out")
    assert frame.attrs["table"] == (tmp_path / "out" / "table.md").read_text()
    runs = [open_run(tmp_path / "out" / name) for name in ("gradcam", "centre", "random")]
    assert [len(run.rows.files) for run in runs] == [9, 9, 9]
    assert runs[0].rows.files == runs[1].rows.files
    assert runs[0].rows.columns["p"].tolist() == runs[2].rows.columns["p"].tolist()  # one classifier
    assert runs[0].summary.cost["explain_backward"] == 1 and runs[1].summary.cost["explain_forward"] == 0
    assert frame["rank/AD_15"].tolist() == [run.summary.metrics["rank/AD_15"].value for run in runs]
    for name in ("table.md", "table.csv", "table.tex", "road.png", "road.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert "Difference to Grad-CAM" in frame.attrs["table"]
    assert "Published" not in frame.attrs["table"]  # the paper has no toy


def test_finished_runs_are_skipped(run: Any, tmp_path: Path) -> None:
    first = run("gradcam", "centre")
    before = (tmp_path / "out" / "gradcam" / "rows.csv").read_bytes()
    second = run()
    assert (tmp_path / "out" / "gradcam" / "rows.csv").read_bytes() == before  # seconds included
    pd.testing.assert_frame_equal(second.iloc[:2], first, check_like=False)


def test_a_method_that_cannot_serve_is_refused_before_any_work(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transformer"):
        run("gradcam", "transformer_lrp")
    with pytest.raises(InputError, match="unknown method 'gradcan'"):
        run("centre", "gradcan")
    with pytest.raises(InputError, match="expected different methods, got centre, centre"):
        run("centre", "centre")
    with pytest.raises(InputError, match=r"expected methods with folders of different names, got ttame@a/x, ttame@b/x"):
        run("ttame@a/x", "ttame@b/x")
    with pytest.raises(InputError, match=r"expected a reference among several methods \(gradcam, centre\), got 'rise'"):
        run("gradcam", "centre", reference="rise")
    with pytest.raises(InputError, match="expected at least one method, got none"):
        compare([])
    with pytest.raises(InputError, match="expected a sequence of methods, got the text 'gradcam'"):
        compare("gradcam")
    assert not (tmp_path / "out").exists()


def test_unknown_arguments_are_refused_with_the_known_ones(run: Any, tmp_path: Path) -> None:
    message = "an evaluation takes no argument 'limit_image'; did you mean 'limit_images'. It takes preset, .*, steps"
    with pytest.raises(InputError, match=message):
        run(limit_image=3)
    with pytest.raises(InputError, match="takes no argument 'maps'"):  # they are of one method
        run(maps="somewhere")
    with pytest.raises(InputError, match="gradcam takes no argument 'masks'; it takes layer"):
        run("gradcam", arguments={"gradcam": {"masks": 3}})
    with pytest.raises(InputError, match=r"methods that are evaluated \(gradcam, centre, random\), got .* 'rise'"):
        run(arguments={"rise": {"masks": 3}})
    assert not (tmp_path / "out").exists()


def test_the_reference_goes_by_id_name_or_folder(run: Any, tmp_path: Path) -> None:
    for reference in ("gradcam", "Grad-CAM", str(tmp_path / "out" / "gradcam")):
        assert "Difference to Grad-CAM" in run("centre", "gradcam", reference=reference).attrs["table"]
    assert "Difference" not in run("centre", "gradcam").attrs["table"]  # no T-TAME


def test_the_report_shows_the_asked_images(run: Any, tmp_path: Path) -> None:
    run(report=tmp_path / "page", report_images=2)
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "Grad-CAM" in page and page.count("data:image/jpeg") == 2


def test_what_a_report_shows_is_explained_once(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"report": tmp_path / "page", "report_images": 2}
    run(**asked)
    page, kept = tmp_path / "page" / "report.html", sorted((tmp_path / "out" / "gradcam" / "looks").iterdir())
    assert len(kept) == 2 * 3
    first = page.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(GradCAM, "explain", lambda *_: pytest.fail("explained again"))
        run(**asked)
        assert page.read_bytes() == first
        kept[0].unlink()
        with pytest.raises(pytest.fail.Exception, match="explained again"):
            run(**asked)
    run(resume=False)
    assert not kept[1].exists()


def test_arguments_of_a_method_stand_in_the_table(run: Any, tmp_path: Path) -> None:
    frame = run("rise", "centre", arguments={"rise": {"masks": 20}})
    assert "| RISE     | tame, masks=20 |" in frame.attrs["table"]
    assert "RISE: 20 random masks, not the published 8000." in frame.attrs["table"]
    settings = json.loads((tmp_path / "out" / "rise" / "summary.json").read_text())["settings"]
    assert settings["arguments"]["masks"] == 20


def test_a_preset_sets_arguments_of_methods(run: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown preset 'papers'; did you mean 'paper'"):
        run(preset="papers")
    for preset in ("tame", "released"):
        run("rise", preset=preset, out=tmp_path / preset, arguments={"rise": {"masks": 20}})
    rows = [open_run(tmp_path / preset / "rise").rows.columns for preset in ("tame", "released")]
    assert rows[0]["p"].tolist() == rows[1]["p"].tolist()
    assert rows[0]["minmax_50_p"].tolist() != rows[1]["minmax_50_p"].tolist()  # RISE weights masks by logits


def test_published_numbers_stand_for_the_papers_backbones_only() -> None:
    text = published_table("resnet50", ["ttame", "gradcam", "centre", "ttame"])
    assert text is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert [row[0] for row in rows] == ["published", rows[1][0], "T-TAME", "Grad-CAM"]
    assert rows[2] == ["T-TAME", "7.81", "54", "27.88", "27.5", "78.58", "4.9", "25.83", "75.35", "1"]
    assert published_table("efficientnet_lite0", ["ttame"]) is None
    assert published_table("resnet50", ["centre"]) is None


def test_a_trained_network_can_be_compared(photographs: Path, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    frame = compare(["centre", "random"], network, data=photographs, limit_images=3, out=tmp_path / "out")
    assert frame.index.tolist() == ["Centre", "Random"]


def test_the_first_learned_method_decides_the_layers_of_all(run: Any, toy_backbone: str, tmp_path: Path) -> None:
    proposed = load_backbone(toy_backbone, "random").layers
    for layers in (proposed[-1:], proposed[:1]):
        classifier = load_backbone(toy_backbone, "random", layers)
        model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
        save_attention(tmp_path / layers[0], model, {"attention": "ttame", "output_size": "largest"})
    texts = [f"ttame@{tmp_path / layer}" for layer in (proposed[-1], proposed[0])]
    toy = load_classifier(toy_backbone, weights="random", device="cpu")
    contenders = []

    def spy(given: Any, *others: Any) -> Any:
        contenders.extend(given)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tame.reporting.compare.views_of", spy)
        run("gradcam", *texts, "centre", classifier=toy, report=tmp_path / "page")
    layers = [one.explainer.classifier.layers for one in contenders]
    assert layers == [proposed[-1:], proposed[-1:], proposed[:1], proposed[-1:]]
    assert contenders[0].explainer.classifier is contenders[3].explainer.classifier
    assert {id(one.explainer.classifier.module) for one in contenders} == {
        id(contenders[0].explainer.classifier.module)
    }
    recorded = [open_run(one.folder).summary.settings["layers"] for one in contenders]
    assert recorded == [list(each) for each in layers]


def test_one_method_with_two_checkpoints(
    run: Any, toy_backbone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = load_backbone(toy_backbone, "random")
    for name in ("a", "b"):
        model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
        save_attention(tmp_path / name, model, {"attention": "ttame", "output_size": "largest"})
    methods = [f"ttame@{tmp_path / name}" for name in ("a", "b")]
    frame = run(*methods, report=tmp_path / "page", report_images=1, progress=True)
    assert frame.index.tolist() == ["T-TAME (a)", "T-TAME (b)"]
    bar = capsys.readouterr().err
    assert "T-TAME (1 of 2):" in bar and "T-TAME (2 of 2): 100%" in bar and "18/18" in bar and "image/s" in bar
    assert sorted(path.name for path in (tmp_path / "out").glob("ttame*")) == ["ttame-a", "ttame-b"]
    assert "Difference to T-TAME (a)" in frame.attrs["table"]  # the first T-TAME
    assert frame["minmax/AD_50"].nunique() == 2
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in frame.index)
    for name in ("a", "b"):
        settings = open_run(tmp_path / "out" / f"ttame-{name}").summary.settings
        assert settings["checkpoint"] == str(tmp_path / name) and settings["checkpoint_sha256"]
