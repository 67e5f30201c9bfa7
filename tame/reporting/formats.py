"""Tables as text: Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from tame.explainers.controls import MINMAX_ONLY
from tame.metrics.measures import Measure

if TYPE_CHECKING:
    from tame.reporting.table import Comparison, Table

Section = tuple[str, list[int]]

_SECTIONS = {
    "minmax": "Min-max scaled maps",
    "rank": "Rank-scaled maps",
    "road": "ROAD",
    "insertion": "Insertion and deletion",
    "deletion": "Insertion and deletion",
}
_HEAD = "method", "preset", "measure", "better", "value", "standard_error", "difference", "low", "high", "verdict"
_NOTHING = "-"
COSTS_KEY = "FP: forward (+ backward) passes per image; work: all that is multiplied for it, in plain forward passes."
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # an option of the line break before it
} | {letter: f"\\{letter}" for letter in "&%$#_"}


def markdown(table: Table) -> str:
    """Return a table for each reading of the maps and metric, the best value of a measure bold, the second underlined.

    Values that read the same share their mark; controls that fool a measure bear none, nor does a run alone. With a
    reference, the same again with the differences to it.
    """
    lines = [table.caption, f"In percent; best **bold**, second <u>underlined</u>; {COSTS_KEY}"]
    cells = marked(table, "**{}**", "<u>{}</u>")
    for number, (title, positions) in enumerate(sections(table.measures)):
        starts = [[entry.name, entry.preset] if number == 0 else [entry.name] for entry in table.entries]
        rows = [
            [*start, *(row[position] for position in positions), passes(entry.cost), work(entry.cost)]
            for start, row, entry in zip(starts, cells, table.entries, strict=True)
        ]
        head = ["method", "preset"][: len(starts[0])] + headings(table, positions) + ["FP", "work"]
        lines += ["", title, "", *_markdown_lines(head, rows)]
    if table.reference is not None:
        reference = table.entries[table.reference]
        for title, positions in sections(table.measures):
            rows = [
                [entry.name, *(_comparison_cell(entry.comparisons[position]) for position in positions)]
                for entry in table.entries
                if entry is not reference
            ]
            lines += ["", f"Difference to {reference.name}, 95 % interval, verdict for the method. {title}", ""]
            lines += _markdown_lines(["method", *headings(table, positions)], rows)
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    r"""Return one ``table`` environment with a ``tabular`` for each reading of the maps and metric.

    The document needs ``\usepackage{booktabs}`` and nothing else. Marks as in `markdown`; with a reference, a raised
    + or - says that the method wins or loses the measure against it.
    """
    caption = f"{table.caption} In percent; best bold, second underlined; {COSTS_KEY}"
    if table.reference is not None:
        caption += f" Raised + and -: better and worse than {table.entries[table.reference].name} (95 % interval)."
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escaped(' '.join([caption, *table.notes]))}}}",
    ]
    cells = marked(table, r"\textbf{{{}}}", r"\underline{{{}}}")
    for title, positions in sections(table.measures):
        head = ["method", *headings(table, positions), "FP", "work"]
        lines += ["", r"\medskip", rf"{escaped(title)}\\[2pt]", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"]
        lines += [r"\toprule", _latex_line(map(escaped, head)), r"\midrule"]
        for entry, row in zip(table.entries, cells, strict=True):
            values = [row[position] + _raised(entry.comparisons[position]) for position in positions]
            costs = passes(entry.cost).removesuffix(" backward"), work(entry.cost)
            lines.append(_latex_line([escaped(entry.name), *values, *costs]))
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_lines(table: Table) -> str:
    """Return one line per run and measure, and one per run and cost, such as ``cost/explain_forward``.

    Columns are ``method``, ``preset``, ``measure``, ``better`` (higher or lower), ``value`` and ``standard_error`` in
    percent (costs: per image, without an error), and where there is a reference ``difference``, ``low``, ``high`` and
    ``verdict``. Cells without a meaning are empty.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_HEAD)
    for entry in table.entries:
        for measure, estimate, comparison in zip(table.measures, entry.estimates, entry.comparisons, strict=True):
            better = "higher" if measure.higher_is_better else "lower"
            numbers = [
                "" if number != number else number  # an error of one image is NaN
                for number in (*(estimate or ("", "")), *(comparison or ("",) * 4))
            ]
            writer.writerow([entry.name, entry.preset, measure.name, better, *numbers])
        for name, value in entry.cost.items():
            writer.writerow([entry.name, entry.preset, f"cost/{name}", "lower", value, *("",) * 5])
    return file.getvalue()


def escaped(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    Example:
        >>> print(escaped("cam_v2: 50 %"))
        cam\_v2: 50 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in text)


def sections(measures: Sequence[Measure]) -> Iterator[Section]:
    """Yield title, with how to read it, and positions of the measures of each part of a table."""
    shown = [position for position, measure in enumerate(measures) if measure.in_table]
    for title in dict.fromkeys(_SECTIONS[measures[position].group] for position in shown):
        positions = [position for position in shown if _SECTIONS[measures[position].group] == title]
        ways: dict[str, str] = {}  # first words of headings: how to read them
        for position in positions:
            ways[measures[position].title.split()[0]] = "higher" if measures[position].higher_is_better else "lower"
        yield f"{title} ({', '.join(f'{word}: {way} is better' for word, way in ways.items())})", positions


def headings(table: Table, positions: Iterable[int]) -> list[str]:
    """Return the titles of measures without the reading that the section's title names."""
    return [measure.title.removesuffix(f" ({measure.group})") for measure in map(table.measures.__getitem__, positions)]


def marked(table: Table, best: str, second: str) -> list[list[str]]:
    """Return the values as text, per run and measure, put into ``best`` and ``second`` where they are that."""
    columns = []
    for position, measure in enumerate(table.measures):
        estimates = [entry.estimates[position] for entry in table.entries]
        cells = [_NOTHING if estimate is None else f"{estimate.value:.2f}" for estimate in estimates]
        rivals = [row for row, entry in enumerate(table.entries) if entry.method not in MINMAX_ONLY]
        shown = {cells[row] for row in rivals} - {_NOTHING}
        ranking = sorted(shown, key=float, reverse=measure.higher_is_better)
        marks = dict(zip(ranking, (best, second), strict=False)) if len(rivals) > 1 else {}
        columns.append(
            [marks.get(cell, "{}").format(cell) if row in rivals else cell for row, cell in enumerate(cells)]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def passes(cost: Mapping[str, float]) -> str:
    """Return the passes per image that a method takes, such as ``1`` or ``1 + 1 backward``."""
    if "explain_forward" not in cost:
        return _NOTHING
    forward, backward = (f"{cost.get(f'explain_{way}', 0):.1f}".removesuffix(".0") for way in ("forward", "backward"))
    return forward if backward == "0" else f"{forward} + {backward} backward"


def work(cost: Mapping[str, float]) -> str:
    """Return the work of an explanation in plain forward passes, such as ``1.03`` or ``8012``."""
    value = cost.get("work")
    return _NOTHING if value is None else f"{value:.{2 if value < 100 else 0}f}"


def _comparison_cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return _NOTHING
    return f"{comparison.difference:+.2f} [{comparison.low:+.2f}, {comparison.high:+.2f}] {comparison.verdict}"


def _raised(comparison: Comparison | None) -> str:
    """Return a sign that takes no room, so that decimals stay below each other."""
    return {"win": r"\rlap{$^{+}$}", "loss": r"\rlap{$^{-}$}"}.get(comparison.verdict if comparison else "", "")


def _markdown_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    bars = [[cell.replace("|", r"\|") for cell in cells] for cells in (head, *rows)]
    return [f"| {' | '.join(cells)} |" for cells in (bars[0], ["---"] * len(head), *bars[1:])]


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
