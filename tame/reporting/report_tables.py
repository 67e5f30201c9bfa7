"""The tables of a report as HTML: measures with their marks and verdicts, and cost; sorted by the page's script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tame.metrics import Measure
from tame.reporting.layout import COSTS_KEY, marked, multiply_adds, passes, sections, units
from tame.reporting.results import Comparison, Entry, Table

_COSTS = {
    "explain_forward": "Forward passes",
    "explain_backward": "Backward passes",
    "work": "Multiply-adds (relative)",
    "seconds_explain": "Explain (s)",
    "seconds_perturb": "Perturb (s)",
    "seconds_classify": "Classify (s)",
}
_SIGNS = {
    "win": ("+", "better than"),
    "loss": ("\N{MINUS SIGN}", "worse than"),
    "tie": ("=", "no significant difference to"),
}
_NOTHING = '<span aria-hidden="true">\N{EN DASH}</span><span class="hidden">none</span>'


def tag(name: str, *content: str, **attributes: str | None) -> str:
    """Return an element; ``content`` is HTML, the attributes (``data_value`` for data-value) are escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(content)}</{name}>"


def key(table: Table) -> str:
    """Return how to read the tables."""
    text = f"{escape(units(table))}; best <strong>bold</strong>, second <u>underlined</u>; {COSTS_KEY}"
    if table.reference is None:
        return text
    name = escape(table.entries[table.reference].name)
    signs = ", ".join(f'<span class="{verdict}">{sign}</span> {words}' for verdict, (sign, words) in _SIGNS.items())
    return f"{text} {signs} {name}, by the 95 % interval of a paired bootstrap."


def switch(table: Table) -> str:
    """Return the box that shows the differences to the reference, where there is one."""
    if table.reference is None:
        return ""
    text = f"show differences to {escape(table.entries[table.reference].name)} and their 95 % intervals"
    return f'<label class="switch"><input type="checkbox" id="intervals"> {text}</label>'


def measures(table: Table) -> Iterator[str]:
    """Yield a table for each reading of the maps and each metric, see `tame.reporting.formats.markdown`."""
    values = marked(table, "<strong>{}</strong>", "<u>{}</u>")
    for section in sections(table.measures):
        heads = [
            _head(heading, table.measures[position].higher_is_better)
            for heading, position in zip(section.headings, section.positions, strict=True)
        ]
        heads += [_head("FP", higher=False), _head("Cost", higher=False)]
        rows = [
            [*(_cell(table, entry, position, cells[position]) for position in section.positions), *_costs(entry)]
            for entry, cells in zip(table.entries, values, strict=True)
        ]
        yield _table(table, (section.title, section.reading), heads, rows)


def cost(table: Table) -> str:
    """Return the table of passes, multiply-adds, seconds and presets."""
    rows = [
        [
            *(_number(_amount(name, entry.cost), entry.cost.get(name)) for name in _COSTS),
            tag("td", escape(entry.preset), class_="text", data_value=entry.preset),
        ]
        for entry in table.entries
    ]
    heads = [*(_head(text, higher=False) for text in _COSTS.values()), _head("Preset")]
    return _table(table, ("Means per image", ""), heads, rows)


def _table(table: Table, caption: tuple[str, str], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with a row per entry, in a box that scrolls by itself; the caption is a title and a remark."""
    lines = []
    for number, (entry, cells) in enumerate(zip(table.entries, rows, strict=True)):
        role = tag("span", "reference", class_="tag") if number == table.reference else ""
        start = tag("th", escape(entry.name), role, scope="row", data_value=entry.name, title=entry.name)
        lines.append(tag("tr", start, *cells, class_="control" if entry.control else None))
    head = tag("thead", tag("tr", _head("Method"), *heads))
    body = tag("tbody", "\n".join(["", *lines, ""]))
    title, remark = caption
    heading = tag("caption", escape(title), " ", tag("small", escape(remark)))
    whole = tag("table", heading, head, body, class_="sortable")
    return tag("div", whole, class_="scroll", tabindex="0", role="group", aria_label=f"{title}, scrolls sideways")


def _head(text: str, higher: bool | None = None) -> str:
    """Return the heading of a column, a button that sorts by it; without a direction the column is text."""
    way = ""
    if higher is not None:
        arrow, words = ("\N{UPWARDS ARROW}", "higher") if higher else ("\N{DOWNWARDS ARROW}", "lower")
        way = f'<span class="way" aria-hidden="true">{arrow}</span><span class="hidden">, {words} is better</span>'
    better = {True: "higher", False: "lower", None: None}[higher]
    button = tag("button", escape(text.replace(" %", "\N{NO-BREAK SPACE}%")), way, type="button")
    return tag("th", button, scope="col", data_better=better, class_="text" if higher is None else None)


def _cell(table: Table, entry: Entry, position: int, marked: str) -> str:
    """Return an estimate with its marks, its error, and the verdict against the reference."""
    estimate, comparison = entry.estimates[position], entry.comparisons[position]
    if estimate is None:
        return _number(_NOTHING, None)
    measure, hint, sign, below = table.measures[position], f"{estimate.value:.2f}", "", ""
    if not math.isnan(estimate.standard_error):
        hint += f" \N{PLUS-MINUS SIGN} {estimate.standard_error:.2f} (standard error)"
    if table.reference is not None:
        sign = tag("sup")
    if comparison is not None and table.reference is not None:
        reference = table.entries[table.reference].name
        hint += f"; {_difference(comparison)} against {reference}: {comparison.verdict}"
        mark, words = _SIGNS[comparison.verdict]
        spoken = tag("span", escape(f"{words} {reference}"), class_="hidden")
        sign = tag("sup", tag("span", mark, aria_hidden="true"), spoken, class_=comparison.verdict)
        below = tag("small", _difference(comparison), class_="interval")
    return _number(marked + sign + below, estimate.value, f"{_plain(measure)}: {hint}")


def _costs(entry: Entry) -> list[str]:
    """Return the cells of passes and of multiply-adds."""
    known = [entry.cost[name] for name in ("explain_forward", "explain_backward") if name in entry.cost]
    return [
        _number(passes(entry.cost).removesuffix(" backward"), sum(known) if known else None),
        _number(_amount("work", entry.cost), entry.cost.get("work")),
    ]


def _plain(measure: Measure) -> str:
    return f"{measure.title}, {'higher' if measure.higher_is_better else 'lower'} is better"


def _difference(comparison: Comparison) -> str:
    return f"{comparison.difference:+.2f} [{comparison.low:+.2f}, {comparison.high:+.2f}]".replace(
        "-", "\N{MINUS SIGN}"
    )


def _number(content: str, value: float | None, title: str | None = None) -> str:
    return tag("td", content, data_value="" if value is None else repr(float(value)), title=title)


def _amount(name: str, cost: Mapping[str, float]) -> str:
    value = cost.get(name)
    if value is None:
        return _NOTHING
    if name == "work":
        return multiply_adds(cost)
    if name.startswith("seconds"):
        return f"{value:.{4 if value < 1 else 2}f}"
    return f"{value:.1f}".removesuffix(".0")
