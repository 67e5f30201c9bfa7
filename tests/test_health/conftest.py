"""The command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tame.cli.main import main


@pytest.fixture
def tame_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Run ``tame ...`` in a fresh folder; return the exit status and what is printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str]:
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().out

    return run
