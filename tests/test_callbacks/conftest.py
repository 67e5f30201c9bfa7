"""What the tests of drawn explanations share."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the latest picture."""
    from tame.callbacks import explanations as explanation_logger

    found: list[str] = []
    grid = explanation_logger.grid

    def spy(rows: Any, column_titles: Any, side: int) -> Image.Image:
        found[:] = column_titles
        assert [len(row) for row in rows] == [len(column_titles)] * 2
        return grid(rows, column_titles=column_titles, side=side)

    monkeypatch.setattr(explanation_logger, "grid", spy)
    return found
