"""Several explanation methods on the same classifier and images: every run, then tables, curves and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tame.classifier import FrozenClassifier
from tame.evaluation.evaluate import evaluation_arguments, evaluation_of, resolve_request
from tame.evaluation.prepare import MethodChoices, Prepared, prepare
from tame.evaluation.records import Run, open_run
from tame.evaluation.run import run_evaluations
from tame.explainers.build import MethodName, build_explainer
from tame.reporting import formats
from tame.reporting.curves import curves_of, draw_curves
from tame.reporting.explorer import Contender, views_of
from tame.reporting.published import published_table
from tame.reporting.report import write_report
from tame.reporting.results import Table
from tame.reporting.table import build_table
from tame.utils.checks import InputError, shown
from tame.utils.folders import check_folder, claim, locked
from tame.utils.io import folder_name, write_text
from tame.utils.limits import check_numbers

if TYPE_CHECKING:
    import pandas as pd

METHODS = (
    "ttame",
    "gradcam",
    "gradcam++",
    "scorecam",
    "ablationcam",
    "rise",
    "iia",
    "centre",
    "random",
    "all_ones",
    "fake_cam",
)
"""Methods that are compared where none are named."""
_REPORT = "report.html"


def compare(
    methods: Sequence[str] = METHODS,
    classifier: FrozenClassifier | nn.Module | str | Path | None = None,
    *,
    checkpoint: str | Path | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    reference: str | None = None,
    report: str | Path | None = None,
    report_images: int = 12,
    out: str | Path | None = None,
    **evaluation: Any,
) -> pd.DataFrame:
    """Evaluate several explanation methods on one classifier and compare them.

    Every method is evaluated in a folder of its own in ``out``; finished runs are skipped. ``out`` then holds
    ``table.md`` (with the numbers printed in the paper, for its backbones), ``table.csv``, ``table.tex`` and, with the
    metric road, its curves as ``road.png`` and ``road.pdf``. All methods explain the same classifier, at the feature
    layers of the first learned method.

    Args:
        methods: Explanation methods, see `tame list methods`; ttame@FOLDER names a checkpoint.
        classifier: The classifier: frozen, a trained network, or what load_classifier takes as backbone; default:
            efficientnet_lite0.
        checkpoint: Trained attention mechanism, a folder or file, of learned methods that name none; default: the one
            shipped for the backbone.
        arguments: Arguments of methods by method, such as {"rise": {"masks": 500}}.
        reference: Method to compare the others with, by paired bootstrap; default: ttame, if it is one of them.
        report: Folder for report.html, one page with tables, curves and explanations; default: no report.
        report_images: Number of images whose explanations the report shows.
        out: Folder of the results; default: comparisons/BACKBONE.
        evaluation: The data, metric and hardware arguments of `tame.evaluate`, such as ``data`` and ``metrics``.

    Returns:
        A row per method and a column per measure, such as ``minmax/AD_100``, after the number of ``images``. Its
        ``attrs`` hold the ``folder``, the ``folders`` of the methods' runs, the ``table`` as Markdown, and whether this
        is the ``main_process`` (rank 0).

    Raises:
        InputError: For anything that cannot be used, for any of the methods, before any work.

    Example:
        >>> frame = compare(["gradcam", "rise"], "resnet50", data="photos/")  # doctest: +SKIP
        >>> frame.loc["RISE", "minmax/AD_50"]  # doctest: +SKIP
    """
    asked = evaluation_arguments(evaluation)
    named = _names(methods)
    check_numbers(report_images=report_images)
    choices = MethodChoices(checkpoint, arguments or {}, asked["preset"], asked["seed"])
    prepared = prepare({text: text for text in named}, classifier, choices, asked["devices"], asked["num_nodes"])
    request = resolve_request(prepared.classifier, asked)
    backbone = prepared.classifier.spec.name
    folder = Path(out or f"comparisons/{folder_name(backbone)}")
    contenders = _contenders(named, prepared, folder)
    against = _reference(reference, contenders)
    pages = {folder.resolve(): [f"table.{kind}" for kind in ("md", "csv", "tex")]}
    if "road" in [metric.id for metric in request.metrics]:
        pages[folder.resolve()] += ["road.png", "road.pdf"]
    if report is not None:
        pages.setdefault(Path(report).resolve(), []).append(_REPORT)
    evaluations = [evaluation_of(one.explainer, prepared.classifier, request, one.folder) for one in contenders]
    for path in (*pages, *(one.folder for one in contenders)):
        check_folder(path)
    if report is not None and Path(report).resolve() in {one.folder.resolve() for one in contenders}:
        raise InputError(f"expected a folder for the report that is none of a method, got {shown(report)}")
    process = prepared.processes.start()  # all that can be refused before has been
    with ExitStack() as stack:
        with process.leading() as leads:
            if leads:
                for path, names in pages.items():
                    stack.enter_context(locked(path))
                    claim(path, names)
        run_evaluations(evaluations, process)
        runs = [open_run(one.folder) for one in contenders]
        table = build_table(runs, against, asked["seed"])
        text = formats.markdown(table) + _published(backbone, contenders)
        if process.rank == 0:
            _write(folder, table, text, runs)
            if report is not None:
                curves = curves_of(runs) if _has_road(runs) else None
                views = views_of(contenders, [entry.name for entry in table.entries], request, report_images)
                write_report(Path(report) / _REPORT, table, curves, views)
    frame = table.frame()
    frame.attrs |= {
        "folder": str(folder),
        "folders": {entry.name: str(run.folder) for entry, run in zip(table.entries, runs, strict=True)},
        "table": text,
        "main_process": process.rank == 0,
    }
    return frame


def _names(methods: Sequence[str]) -> dict[str, MethodName]:
    """Return the methods by their text.

    Raises:
        InputError: For no method, an unknown one, one that occurs twice, or two whose folders have one name.
    """
    if isinstance(methods, str):
        raise InputError(f"expected a sequence of methods, got the text {methods!r}")
    named = {text: MethodName.of(text) for text in methods}
    if not named:
        raise InputError("expected at least one method, got none")
    if len(named) < len(methods):
        raise InputError(f"expected different methods, got {', '.join(methods)}")
    for name in named.values():
        _ = name.registered  # refuses unknown names
    if len({_folder(name) for name in named.values()}) < len(named):
        raise InputError(f"expected methods with folders of different names, got {', '.join(named)}")
    return named


def _folder(name: MethodName) -> str:
    """Return the name of the folder of a method's run."""
    return folder_name(f"{name.name}-{Path(name.checkpoint).name}" if name.checkpoint else name.name)


def _contenders(named: Mapping[str, MethodName], prepared: Prepared, out: Path) -> list[Contender]:
    """Return the methods with their folders, all on the classifier of the first learned one."""
    explainers = prepared.explainers
    first = next((text for text, name in named.items() if name.learned), None)
    shared = prepared.classifier if first is None else explainers[first].classifier
    contenders = []
    for text, name in named.items():
        one = explainers[text]
        if not name.learned and one.classifier.layers != shared.layers:
            one = build_explainer(shared, text, **one.arguments)
        contenders.append(Contender(text, name, out / _folder(name), one))
    return contenders


def _reference(reference: str | None, contenders: Sequence[Contender]) -> str | None:
    """Return the folder of the run to compare with: the one asked for, otherwise the first T-TAME, if there is any."""
    for one in contenders:
        known = {one.text, one.method.name, one.method.title, one.folder.name, str(one.folder)}
        if (reference or "ttame") in known and len(contenders) > 1:
            return str(one.folder)
    if reference:
        names = ", ".join(one.folder.name for one in contenders)
        raise InputError(f"expected a reference among several methods ({names}), got {reference!r}")
    return None


def _published(backbone: str, contenders: Sequence[Contender]) -> str:
    """Return the numbers printed in the paper as Markdown, empty where there are none."""
    table = published_table(backbone, [one.method.name for one in contenders])
    note = "Published, on 2,000 images of ImageNet's validation set (T-TAME, IEEE Access 2024):"
    return f"\n{note}\n\n{table}\n" if table else ""


def _write(folder: Path, table: Table, markdown: str, runs: Sequence[Run]) -> None:
    """Write the tables and, with the metric road, its curves."""
    for name, text in (("table.md", markdown), ("table.csv", formats.csv(table)), ("table.tex", formats.latex(table))):
        write_text(folder / name, text)
    if _has_road(runs):
        draw_curves(runs, folder / "road")


def _has_road(runs: Sequence[Run]) -> bool:
    return "road" in runs[0].summary.settings["metrics"]
