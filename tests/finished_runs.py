"""Finished evaluations with numbers that a reader can check, written without a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tame.evaluation.records import SUMMARY, summarise, write_summary
from tame.evaluation.rows import ROWS, read_rows, write_rows
from tame.perturbations.names import causal_name, imputed_name, masked_name

AD_IC: dict[str, Any] = {
    "metrics": ["ad-ic"],
    "scalings": ["minmax", "rank"],
    "keeps": [1.0, 0.15],
    "masking": "cnn",
    "ic_margin": 1e-5,
}
ROAD: dict[str, Any] = {
    "metrics": ["road"],
    "removes": [0.1, 0.5],
    "road_selection": "exact",
    "road_space": "image",
    "road_reading": "confidence",
    "noise": 0.01,
    "seed": 0,
}
CAUSAL: dict[str, Any] = {"metrics": ["insertion", "deletion"], "steps": 2}
ALL = AD_IC | ROAD | CAUSAL | {"metrics": ["ad-ic", "road", "insertion", "deletion"]}
SHARED: dict[str, Any] = {
    "backbone": "toy",
    "weights": "random",
    "weights_sha256": "abc",
    "list_sha256": "1234",
    "preset": "tame",
    "overrides": {},
    "only": "all",
    "precision": "32",
}


def inputs(settings: dict[str, Any]) -> list[str]:
    """Names of the perturbed inputs."""
    names = [masked_name(each, keep) for each in settings.get("scalings", ()) for keep in settings["keeps"]]
    names += [imputed_name(order, each) for order in ("morf", "lerf") for each in settings.get("removes", ())]
    kinds = [kind for kind in ("insertion", "deletion") if kind in settings["metrics"]]
    return [*names, *(causal_name(kind, step) for kind in kinds for step in range(settings.get("steps", 0) + 1))]


def make_run(
    folder: Path,
    method: str,
    confidences: list[float],
    metrics: dict[str, Any] = AD_IC,
    files: list[str] | None = None,
    constant: int = 0,
    invalid: int = 0,
    passes: tuple[float, float] = (1, 0),
    work: float | None = None,
    uncounted: int = 0,
    **changes: Any,
) -> Path:
    """A run with p = 0.5 everywhere, the same p' on each perturbed input, and the class kept where p' > 0.4."""
    settings = SHARED | metrics | {"method": method} | changes
    rows = [
        {
            "index": index,
            "file": (files or [f"{n}.jpg" for n in range(len(confidences))])[index],
            "label": "",
            "correct_top1": "",
            "correct_top5": "",
            "p": 0.5,
            **{f"{name}_p": value for name in inputs(settings)},
            **{f"{name}_kept": int(value > 0.4) for name in inputs(settings)},
            "constant": int(index < constant),
            "invalid": int(index < invalid),
            "counted": int(index >= uncounted),
            "explain_forward": passes[0],
            "explain_backward": passes[1],
            "seconds_explain": 0.25,
            "seconds_perturb": 0.0,
            "seconds_classify": 0.0,
        }
        for index, value in enumerate(confidences)
    ]
    write_rows(folder / ROWS, rows)
    write_summary(folder / SUMMARY, summarise(read_rows(folder / ROWS), settings, work))
    return folder


HALF = [0.25, 0.75] * 20  # AD 25, IC 50, AG 25; mean 50, kept 50
GOOD = [0.45, 0.75] * 20  # AD 5, IC 50, AG 25; mean 60, kept 100
BAD = [0.05, 0.4] * 20  # AD 55, IC 0, AG 0; mean 22.5, kept 0


def three(tmp_path: Path, metrics: dict[str, Any] = AD_IC) -> list[Path]:
    return [
        make_run(tmp_path / "a", "gradcam", HALF, metrics, passes=(1, 1), work=1.256),
        make_run(tmp_path / "b", "ttame", GOOD, metrics, overrides={"masking": "cnn"}),
        make_run(tmp_path / "c", "random", BAD, metrics, constant=3, passes=(0, 0), work=0.0),
    ]
