"""Tables as a reader sees them."""

from __future__ import annotations

import re

from tame.reporting.formats import markdown
from tame.reporting.results import Table


def markdown_lines(table: Table) -> list[str]:
    """Return the lines of a table as Markdown, without the spaces and dashes that fill its columns."""
    return [re.sub("-{3,}", "---", re.sub(" +", " ", line)) for line in markdown(table).splitlines()]
