"""The check that a run folder belongs to the current settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tame.utils.checks import InputError
from tame.utils.io import check_same_settings, write_json

BEGAN: dict[str, Any] = {"seed": 0, "checkpoint": "/old/place", "checkpoint_sha256": "abc", "plan": {"steps": 7}}


@pytest.mark.parametrize(
    "now", [BEGAN, BEGAN | {"checkpoint": "/new/place"}], ids=["the same", "a file that was moved"]
)
def test_the_same_settings_continue(tmp_path: Path, now: dict[str, Any]) -> None:
    write_json(tmp_path / "settings.json", BEGAN)
    check_same_settings(tmp_path / "settings.json", now)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"other settings: seed 0, not 1. Choose another output folder \(out\)"),
        ({"plan": {"steps": 8}}, r"other settings: plan\.steps 7, not 8"),
        ({"checkpoint": "/new/place", "checkpoint_sha256": "xyz"}, "checkpoint '/old/place', not '/new/place'"),
        ({"method": "rise"}, "method unset, not 'rise'"),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    write_json(tmp_path / "settings.json", BEGAN)
    with pytest.raises(InputError, match=message):
        check_same_settings(tmp_path / "settings.json", BEGAN | changed)


def test_settings_of_an_earlier_version_have_no_preprocessing(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    now: dict[str, Any] = {"backbone": "toy", "preprocessing": {"resize": 36}}
    write_json(file, {"backbone": "toy"})
    check_same_settings(file, now)
    write_json(file, now)
    check_same_settings(file, now)
    with pytest.raises(InputError, match=r"preprocessing\.resize 36, not 40"):
        check_same_settings(file, {"backbone": "toy", "preprocessing": {"resize": 40}})
