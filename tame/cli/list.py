"""``tame list``: tables of backbones, methods, metrics, presets and attention mechanisms."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from json import dumps, loads
from typing import TYPE_CHECKING

from tame.catalogue import KINDS, list_available
from tame.cli.command import Arguments, Command, Part
from tame.utils.checks import InputError

if TYPE_CHECKING:
    import pandas as pd

_NARROWEST = 16  # characters of a column


def show(kinds: Sequence[str] = (), json: bool = False) -> None:
    """List backbones, methods, metrics, presets and attention mechanisms.

    Args:
        kinds: What to list: backbones, methods, metrics, presets or attention, and after them a pattern of names
            such as 'res*'; default: the names of all of them.
        json: Print JSON.
    """
    words, known = list(kinds), {str(kind): kind for kind in KINDS}
    pattern = words.pop() if len(words) > 1 and words[-1] not in known else None
    for word in words:
        if word not in known:
            raise InputError(f"cannot list {word!r}; expected {', '.join(known)}")
    tables = {word: list_available(known[word], pattern) for word in words or known}
    if pattern and all(table.empty for table in tables.values()):
        raise InputError(f"expected a pattern of {' or '.join(words)}, got {pattern!r}, which fits none")
    if json:
        print(_json(tables))
    elif not words:
        for kind, table in tables.items():
            print(f"{kind}: {', '.join(table['name'])}")
    else:
        print("\n\n".join(_text(kind, table) for kind, table in tables.items()))


def _json(tables: dict[str, pd.DataFrame]) -> str:
    """Return the rows of one table as a JSON list, those of several by kind."""
    rows = {kind: loads(table.to_json(orient="records")) for kind, table in tables.items()}
    return dumps(next(iter(rows.values())) if len(rows) == 1 else rows, indent=2, ensure_ascii=False)


def _text(kind: str, table: pd.DataFrame) -> str:
    """Return a table as aligned text: a row each, of presets a column each."""
    if kind == "presets":
        table = table.set_index("name").T.rename_axis("preset").reset_index()
    cells = table.astype(object).where(table.notna(), "")
    widths = None if (columns := _terminal_columns()) is None else _widths(cells, columns)
    return cells.to_markdown(index=False, tablefmt="simple", disable_numparse=True, maxcolwidths=widths)


def _terminal_columns() -> int | None:
    """Return the width of the terminal; None where the output goes to a file, in which each row stays one line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _widths(cells: pd.DataFrame, columns: int) -> list[int]:
    """Return widths of a table's columns that fit into a terminal: the widest are made narrower."""
    widths = [max(len(str(cell)) for cell in [name, *cells[name]]) for name in cells]
    space = columns - 2 * (len(widths) - 1)
    while sum(widths) > space and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def run(arguments: Arguments) -> int:
    """Print the tables."""
    show(**arguments.of(show))
    return 0


COMMAND = Command(
    run=run,
    parts=(Part(show),),
    examples=(
        "tame list methods",
        "tame list methods 'grad-cam:*'",
        "tame list backbones 'res*'",
        "tame list backbones 'timm:vit*'",
        "tame list presets --json",
    ),
    positional="kinds",
)
