"""Several methods on one classifier, compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tame.attention import build_attention
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tame.checkpoints.native import save_attention
from tame.evaluation.records import read_run
from tame.explainers.cams import GradCAM
from tame.options import CompareOptions
from tame.reporting import compare as module
from tame.reporting.compare import run_comparison
from tame.reporting.published import published_table
from tame.utils.checks import InputError


def options(backbone: str, data: Path, out: Path, **more: object) -> CompareOptions:
    asked = CompareOptions(
        methods="gradcam,centre,random",
        backbone=backbone,
        weights="random",
        data=str(data),
        out=str(out),
        limit_images=9,
        num_workers=0,
        metrics="ad-ic,road",
        reference="gradcam",
    )
    return replace(asked, **more)


def test_every_method_is_measured_on_the_same_images(toy_backbone: str, photographs: Path, tmp_path: Path) -> None:
    finished = run_comparison(options(toy_backbone, photographs, tmp_path / "out"))
    assert finished.speaks and [entry.name for entry in finished.table.entries] == ["gradcam", "centre", "random"]
    runs = [read_run(tmp_path / "out" / name) for name in ("gradcam", "centre", "random")]
    assert [len(run.rows.files) for run in runs] == [9, 9, 9]
    assert runs[0].rows.files == runs[1].rows.files
    assert runs[0].rows.columns["p"].tolist() == runs[2].rows.columns["p"].tolist()  # one classifier
    assert runs[0].summary.cost["explain_backward"] == 1 and runs[1].summary.cost["explain_forward"] == 0
    for name in ("table.md", "table.csv", "table.tex", "road.png", "road.pdf"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert "Published" not in (tmp_path / "out" / "table.md").read_text()  # the paper has no toy


def test_what_is_complete_is_not_measured_again(
    toy_backbone: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_comparison(options(toy_backbone, photographs, tmp_path, methods="gradcam,centre"))
    before = (tmp_path / "gradcam" / "rows.csv").read_bytes()
    second = run_comparison(options(toy_backbone, photographs, tmp_path))
    assert (tmp_path / "gradcam" / "rows.csv").read_bytes() == before  # seconds included
    assert [entry.estimates for entry in second.table.entries[:2]] == [entry.estimates for entry in first.table.entries]


def test_a_method_that_cannot_serve_is_refused_before_any_work(
    toy_backbone: str, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="transformer"):
        run_comparison(options(toy_backbone, photographs, tmp_path / "out", methods="gradcam,transformer_lrp"))
    with pytest.raises(InputError, match="unknown method 'gradcan'"):
        run_comparison(options(toy_backbone, photographs, tmp_path / "out", methods="centre,gradcan"))
    with pytest.raises(InputError, match="expected --methods of different names, separated by commas, got"):
        run_comparison(options(toy_backbone, photographs, tmp_path / "out", methods="centre,centre"))
    with pytest.raises(InputError, match="expected --methods with folders of different names, got 'ttame@a/x,ttame@b/"):
        run_comparison(options(toy_backbone, photographs, tmp_path / "out", methods="ttame@a/x,ttame@b/x"))
    with pytest.raises(InputError, match=r"expected --reference among several methods \(gradcam, centre\), got 'rise'"):
        run_comparison(options(toy_backbone, photographs, tmp_path / "out", methods="gradcam,centre", reference="rise"))
    assert not (tmp_path / "out").exists()


def test_the_report_shows_the_asked_images(toy_backbone: str, photographs: Path, tmp_path: Path) -> None:
    run_comparison(options(toy_backbone, photographs, tmp_path, report=str(tmp_path / "page"), report_images=2))
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "gradcam" in page and page.count("data:image/jpeg") == 2


def test_what_a_report_shows_is_explained_once(
    toy_backbone: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(toy_backbone, photographs, tmp_path, report=str(tmp_path / "page"), report_images=2)
    run_comparison(asked)
    page, kept = tmp_path / "page" / "report.html", sorted((tmp_path / "gradcam" / "looks").iterdir())
    assert len(kept) == 2 * 3
    first = page.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(GradCAM, "explain", lambda *_: pytest.fail("explained again"))
        run_comparison(asked)
        assert page.read_bytes() == first
        kept[0].unlink()
        with pytest.raises(pytest.fail.Exception, match="explained again"):
            run_comparison(asked)
    run_comparison(replace(asked, report="", resume=False))
    assert not kept[1].exists()


def test_changes_of_a_method_stand_in_the_table(toy_backbone: str, photographs: Path, tmp_path: Path) -> None:
    asked = options(toy_backbone, photographs, tmp_path, methods="rise,centre", rise_masks=20, reference="")
    table = run_comparison(asked).table
    assert [entry.preset for entry in table.entries] == ["tame, rise_masks=20", "tame"]
    assert json.loads((tmp_path / "rise" / "summary.json").read_text())["settings"]["rise_masks"] == 20


def test_published_numbers_stand_for_the_papers_backbones_only() -> None:
    text = published_table("resnet50", ["ttame", "gradcam", "centre"])
    assert "| ttame | 7.81 | 54 | 27.88 | 27.5 | 78.58 | 4.9 | 25.83 | 75.35 | 1 |" in text
    assert "centre" not in text
    assert published_table("efficientnet_lite0", ["ttame"]) == ""


def test_views_hold_the_best_classes(toy_backbone: str, photographs: Path, tmp_path: Path) -> None:
    asked = options(toy_backbone, photographs, tmp_path)
    contenders = module.prepare(asked, tmp_path, "cpu")
    view, *others = module.look(replace(asked, report_images=3), contenders, ["gradcam", "centre", "random"])
    assert len(others) == 2 and len(view.classes) == 3
    confidences = [confidence for *_, confidence in view.classes]
    assert confidences == sorted(confidences, reverse=True)
    assert set(view.maps) == {(name, index) for name in ("gradcam", "centre", "random") for index, *_ in view.classes}


def test_one_method_with_two_checkpoints(toy_backbone: str, photographs: Path, tmp_path: Path) -> None:
    classifier = load_backbone(toy_backbone, "random")
    for name in ("a", "b"):
        model = ExplainedClassifier(classifier, build_attention("ttame", classifier.channels, 5))
        save_attention(tmp_path / name, model, {"attention": "ttame", "output_size": "largest"})
    methods = f"ttame@{tmp_path / 'a'},ttame@{tmp_path / 'b'}"
    asked = options(toy_backbone, photographs, tmp_path / "out", methods=methods, reference="")
    table = run_comparison(replace(asked, report=str(tmp_path / "page"), report_images=1)).table
    names = [entry.name for entry in table.entries]
    assert sorted(path.name for path in (tmp_path / "out").glob("ttame*")) == ["ttame-a", "ttame-b"]
    assert table.reference == 0  # the first T-TAME
    assert len(set(names)) == 2 and table.entries[0].estimates != table.entries[1].estimates
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)
