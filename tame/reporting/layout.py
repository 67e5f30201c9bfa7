"""What every form of a table shows: its parts, their headings, the marks of the best values, and the cost columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tame.metrics import METRICS, Measure
from tame.reporting.results import Table

NOTHING = "-"
"""A cell without a meaning."""

COSTS = "FP", "cost"
"""Headings of the last two columns."""

COSTS_KEY = (
    "FP: forward (+ backward) passes per image; cost: multiply-adds, relative to one forward pass of the classifier."
)

_SCALINGS = {"minmax": "Min-max scaled maps", "rank": "Rank-scaled maps"}


class Section(NamedTuple):
    """The part of a table that shows one scaling of the maps, or one metric.

    Attributes:
        title: Its title.
        reading: How to read its columns, such as ``AD: lower is better``.
        positions: Positions of its measures among those of the table.
        headings: Headings of their columns.
    """

    title: str
    reading: str
    positions: list[int]
    headings: list[str]


def sections(measures: Sequence[Measure]) -> Iterator[Section]:
    """Yield the parts of a table with these measures; metrics of one column each share a part."""
    shown = [position for position, measure in enumerate(measures) if measure.in_table]
    groups: dict[str, list[int]] = {}
    for position in shown:
        groups.setdefault(measures[position].group, []).append(position)
    single = [group for group, positions in groups.items() if len(positions) == 1 and group in METRICS]
    parts = {group: [group] for group in groups if group not in single[1:]}
    if single:
        parts[single[0]] = single
    for together in parts.values():
        positions = [position for group in together for position in groups[group]]
        columns = [measures[position] for position in positions]
        directions = {each.title.split()[0]: "higher" if each.higher_is_better else "lower" for each in columns}
        reading = ", ".join(f"{word}: {way} is better" for word, way in directions.items())
        headings = [each.title.removesuffix(f" ({each.group})") for each in columns]
        yield Section(_joined([_title(group) for group in together]), reading, positions, headings)


def _title(group: str) -> str:
    """Return the title of a group of measures: a scaling of the maps, or a metric."""
    if group in METRICS:
        return METRICS.get(group).title
    return _SCALINGS.get(group, group)


def _joined(titles: Sequence[str]) -> str:
    """Return titles as one.

    Example:
        >>> _joined(["Insertion", "Deletion", "ROAD"])
        'Insertion and deletion and ROAD'
    """
    first, *others = titles
    return " and ".join([first, *(title.lower() if title.istitle() else title for title in others)])


def units(table: Table) -> str:
    """Return the unit of the values, such as ``In percent``, with the columns that have none."""
    others = [measure.title for measure in table.measures if measure.in_table and measure.unit != "%"]
    return f"In percent, except {', '.join(others)}" if others else "In percent"


def marked(table: Table, best: str, second: str) -> list[list[str]]:
    """Return the values as text, per run and measure, put into ``best`` and ``second`` where they are that.

    Values that read the same share their mark. Controls bear none, nor do runs with invalid maps, a single run, or
    anything where all methods tie.
    """
    columns = []
    for position, measure in enumerate(table.measures):
        estimates = [entry.estimates[position] for entry in table.entries]
        cells = [NOTHING if estimate is None else f"{estimate.value:.2f}" for estimate in estimates]
        rivals = [not entry.control and not entry.invalid for entry in table.entries]
        shown = {cell for cell, rival in zip(cells, rivals, strict=True) if rival} - {NOTHING}
        ranking = sorted(shown, key=float, reverse=measure.higher_is_better)
        marks = dict(zip(ranking, (best, second), strict=False)) if len(ranking) > 1 else {}
        columns.append(
            [marks.get(cell, "{}").format(cell) if rival else cell for cell, rival in zip(cells, rivals, strict=True)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def passes(cost: Mapping[str, float]) -> str:
    """Return the passes per image that a method takes, such as ``1`` or ``1 + 1 backward``."""
    if "explain_forward" not in cost:
        return NOTHING
    forward, backward = (f"{cost.get(f'explain_{way}', 0):.1f}".removesuffix(".0") for way in ("forward", "backward"))
    return forward if backward == "0" else f"{forward} + {backward} backward"


def multiply_adds(cost: Mapping[str, float]) -> str:
    """Return the multiply-adds of an explanation, relative to one forward pass, such as ``1.03`` or ``8012``."""
    value = cost.get("work")
    return NOTHING if value is None else f"{value:.{2 if value < 100 else 0}f}"
