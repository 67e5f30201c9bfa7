"""The curves of ROAD of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tame.evaluation.records import Estimate, Run
from tame.functional.bootstrap import standard_error
from tame.metrics import Measure
from tame.perturbations.names import percent
from tame.reporting.names import names_of, title_of
from tame.reporting.runs import check_comparable, classifier_of, images_of, is_minmax_only, measures_in
from tame.utils.checks import InputError
from tame.visualize import PANELS, RoadCurves


def curves_of(runs: Sequence[Run]) -> RoadCurves:
    """Return the curves of ROAD of several runs over the same images, for `tame.visualize.road_curves`.

    Controls without an order of the pixels, ``all_ones`` and ``fake_cam``, are left out.

    Args:
        runs: In the order of the legend.

    Raises:
        InputError: For runs that cannot be compared, see `tame.reporting.runs.check_comparable`, or without ROAD.
    """
    check_comparable(runs)
    settings = runs[0].summary.settings
    drawn = [(name, run) for name, run in zip(names_of(runs), runs, strict=True) if not is_minmax_only(run)]
    if "road" not in settings["metrics"] or not drawn:
        raise InputError(
            "expected runs with the metric road to draw curves of, "
            f"got {', '.join(settings['metrics'])} of {', '.join(map(title_of, runs))}"
        )
    known = {measure.name: measure for measure in measures_in(runs[0])}
    estimates = {
        name: {
            panel: [_measured(known[f"road/{panel}_{percent(remove)}"], run) for remove in settings["removes"]]
            for panel in PANELS
        }
        for name, run in drawn
    }
    return RoadCurves(
        removes=list(settings["removes"]),
        values=_part(estimates, "value"),
        errors=_part(estimates, "standard_error"),
        start={"confidence": 100 * float(runs[0].counted().columns["p"].mean()), "kept": 100.0},
        title=f"ROAD: {classifier_of(settings)}, {images_of(runs[0])}",
    )


def draw_curves(runs: Sequence[Run], path: str | Path) -> tuple[Path, Path]:
    """Draw the curves of ROAD of several runs, see `curves_of`.

    Args:
        runs: In the order of the legend.
        path: Of the files, with or without their suffix.

    Returns:
        The PNG and the PDF file.

    Raises:
        InputError: As `curves_of`.
    """
    from tame.visualize import road_curves

    return road_curves(curves_of(runs), path)


def _part(estimates: Mapping[str, Mapping[str, list[Estimate]]], name: str) -> dict[str, dict[str, list[float]]]:
    return {
        method: {panel: [getattr(each, name) for each in line] for panel, line in panels.items()}
        for method, panels in estimates.items()
    }


def _measured(measure: Measure, run: Run) -> Estimate:
    values = measure.values(run.counted().columns)
    return Estimate(float(values.mean()), standard_error(values))
