"""Tables as text, by pandas: Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tame.reporting.layout import COSTS, COSTS_KEY, NOTHING, Section, marked, multiply_adds, passes, sections, units
from tame.reporting.results import Comparison, Table

if TYPE_CHECKING:
    import pandas as pd

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # otherwise an option of the line break before it
    }
    | {letter: f"\\{letter}" for letter in "&%$#_{}"}
)


def markdown(table: Table) -> str:
    """Return a table for each reading of the maps and each metric, as Markdown.

    The best value of a measure is bold, the second best underlined, see `tame.reporting.layout.marked`. With a
    reference, the differences to it follow in tables of the same form.
    """
    parts = [f"{table.caption}\n{units(table)}; best **bold**, second <u>underlined</u>; {COSTS_KEY}"]
    cells = marked(table, "**{}**", "<u>{}</u>")
    for number, section in enumerate(sections(table.measures)):
        frame = _values(table, section, cells)
        if number == 0:
            frame.insert(1, "preset", [entry.preset for entry in table.entries])
        parts += [f"{section.title} ({section.reading})", markdown_rows(frame, names=2 if number == 0 else 1)]
    if table.reference is not None and len(table.entries) > 1:
        reference = table.entries[table.reference].name
        for section in sections(table.measures):
            parts += [
                f"Difference to {reference}, 95 % interval, verdict for the method. {section.title} "
                f"({section.reading})",
                markdown_rows(_differences(table, section)),
            ]
    return "\n\n".join([*parts, *table.notes]) + "\n"


def latex(table: Table) -> str:
    r"""Return one ``table`` environment with a ``tabular`` for each reading of the maps and each metric.

    The document needs ``\usepackage{booktabs}`` and nothing else. Marks are those of `markdown`; with a reference, a
    raised + or - says that the method is better or worse than it.
    """
    caption = f"{table.caption} {units(table)}; best bold, second underlined; {COSTS_KEY}"
    if table.reference is not None:
        caption += f" Raised + and -: better and worse than {table.entries[table.reference].name} (95 % interval)."
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escaped(' '.join([caption, *table.notes]))}}}",
    ]
    cells = [
        [cell + _raised(comparison) for cell, comparison in zip(row, entry.comparisons, strict=True)]
        for entry, row in zip(table.entries, marked(table, r"\textbf{{{}}}", r"\underline{{{}}}"), strict=True)
    ]
    for section in sections(table.measures):
        frame = _values(table, section, cells).rename(columns=escaped)
        frame["method"] = frame["method"].map(escaped)
        frame["FP"] = frame["FP"].str.removesuffix(" backward")
        alignment = "l" + "r" * (frame.shape[1] - 1)
        title = escaped(f"{section.title} ({section.reading})")
        lines += ["", r"\medskip", rf"{title}\\[2pt]"]
        lines += [frame.to_latex(index=False, escape=False, column_format=alignment).rstrip()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv(table: Table) -> str:
    """Return all numbers as CSV, see `tame.reporting.results.Table.long_frame`."""
    text: str = table.long_frame().to_csv(index=False, lineterminator="\n")
    return text


def markdown_rows(frame: pd.DataFrame, names: int = 1) -> str:
    r"""Return a frame of text as a Markdown table, its first columns (``names`` of them) left-aligned.

    Example:
        >>> import pandas as pd
        >>> print(markdown_rows(pd.DataFrame({"method": ["a|b"], "AD": ["7.50"]})))
        | method   |   AD |
        |:---------|-----:|
        | a\|b     | 7.50 |
    """
    alignment = ["left"] * names + ["right"] * (frame.shape[1] - names)
    cells = frame.map(_markdown_cell).rename(columns=_markdown_cell)
    return cells.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def escaped(text: str) -> str:
    r"""Return text that LaTeX prints as it is.

    Example:
        >>> print(escaped("cam_v2: 50 %"))
        cam\_v2: 50 \%
    """
    return text.translate(_LATEX)


def _values(table: Table, section: Section, cells: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return a section as text: names, values and costs."""
    import pandas as pd

    rows = [
        [entry.name, *(row[position] for position in section.positions), passes(entry.cost), multiply_adds(entry.cost)]
        for entry, row in zip(table.entries, cells, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", *section.headings, *COSTS])


def _differences(table: Table, section: Section) -> pd.DataFrame:
    """Return the differences of a section to the reference as text."""
    import pandas as pd

    rows = [
        [entry.name, *(_difference(entry.comparisons[position]) for position in section.positions)]
        for number, entry in enumerate(table.entries)
        if number != table.reference
    ]
    return pd.DataFrame(rows, columns=["method", *section.headings])


def _difference(comparison: Comparison | None) -> str:
    if comparison is None:
        return NOTHING
    return f"{comparison.difference:+.2f} [{comparison.low:+.2f}, {comparison.high:+.2f}] {comparison.verdict}"


def _raised(comparison: Comparison | None) -> str:
    """Return a sign that takes no room, so that decimal points stay below each other."""
    return {"win": r"\rlap{$^{+}$}", "loss": r"\rlap{$^{-}$}"}.get(comparison.verdict if comparison else "", "")


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
