"""Every number that an evaluation reports, as data: its name, how to read it, and each image's part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tame.functional.bootstrap import FloatArray
from tame.functional.scores import area_under_curve, drop, gain, increase
from tame.perturbations.names import causal_name, imputed_name, masked_name, percent
from tame.types import CausalOrder, MapScaling, RemovalOrder

Columns = Mapping[str, FloatArray]
Group = Literal["minmax", "rank", "road", "insertion", "deletion"]

ORDERS: tuple[RemovalOrder, ...] = ("morf", "lerf")
CAUSAL: tuple[CausalOrder, ...] = ("insertion", "deletion")


@dataclass(frozen=True)
class Measure:
    """One number of an evaluation; the mean of its values over the images.

    Attributes:
        name: In summaries, such as ``minmax/AD_50`` or ``road/morf_kept``.
        title: Heading in tables.
        group: The reading of the maps, or the metric, that it belongs to.
        higher_is_better: How to read it.
        in_table: Whether tables show it; the others are in summaries and curves only.
        values: Each image's part in percent, (n,), from the columns of a run.
    """

    name: str
    title: str
    group: Group
    higher_is_better: bool
    in_table: bool
    values: Callable[[Columns], FloatArray]


def confidence_column(name: str) -> str:
    """Return the column of p' on the perturbed input ``name``."""
    return f"{name}_p"


def kept_column(name: str) -> str:
    """Return the column that says whether the model truth survived on the perturbed input ``name``."""
    return f"{name}_kept"


def measures(settings: Mapping[str, Any]) -> list[Measure]:
    """Return the measures of a run in the order of tables.

    Args:
        settings: The run's own: ``metrics`` and, as far as these need them, ``scalings``, ``keeps``, ``ic_margin``,
            ``removes``, ``steps``.
    """
    found: list[Measure] = []
    if "ad-ic" in settings["metrics"]:
        for scaling in settings["scalings"]:
            for keep in settings["keeps"]:
                found += _masked_measures(scaling, keep, settings["ic_margin"])
    if "road" in settings["metrics"]:
        for order in ORDERS:
            found += _road_measures(order, settings["removes"])
    for kind in CAUSAL:
        if kind in settings["metrics"]:
            values = partial(_area, names=[causal_name(kind, step) for step in range(settings["steps"] + 1)])
            found.append(Measure(f"{kind}/AUC", kind.capitalize(), kind, kind == "insertion", True, values))
    return found


def _masked_measures(scaling: MapScaling, keep: float, margin: float) -> Iterator[Measure]:
    column, share = confidence_column(masked_name(scaling, keep)), percent(keep)

    def scored(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Columns], FloatArray]:
        return lambda columns: _percent(score(_tensor(columns["p"]), _tensor(columns[column])))

    for metric, higher, shown, score in (
        ("AD", False, True, drop),
        ("IC", True, True, partial(increase, margin=margin)),
        ("AG", True, False, gain),
    ):
        yield Measure(
            f"{scaling}/{metric}_{share}", f"{metric} {share} % ({scaling})", scaling, higher, shown, scored(score)
        )


def _road_measures(order: RemovalOrder, removes: Sequence[float]) -> Iterator[Measure]:
    higher, label = order == "lerf", {"morf": "MoRF", "lerf": "LeRF"}[order]
    for reading, column in (("confidence", confidence_column), ("kept", kept_column)):
        every = [column(imputed_name(order, remove)) for remove in removes]
        name, title = f"road/{order}_{reading}", f"{label} {reading}"
        yield Measure(name, title, "road", higher, True, partial(_mean_percent, names=every))
        for remove, one in zip(removes, every, strict=True):
            values = partial(_mean_percent, names=[one])
            yield Measure(f"{name}_{percent(remove)}", f"{title} {percent(remove)} %", "road", higher, False, values)


def _mean_percent(columns: Columns, names: Sequence[str]) -> FloatArray:
    return 100 * np.mean([columns[name] for name in names], axis=0)


def _area(columns: Columns, names: Sequence[str]) -> FloatArray:
    return _percent(area_under_curve(torch.stack([_tensor(columns[confidence_column(name)]) for name in names])))


def _tensor(values: FloatArray) -> Tensor:
    return torch.from_numpy(values)


def _percent(values: Tensor) -> FloatArray:
    return 100 * values.double().numpy()
