"""What a user installs holds everything that runs without a download."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import tame

REPOSITORY = Path(__file__).resolve().parent.parent


def project() -> dict[str, object]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "tame/py.typed",
        "tame/assets/photographs/chelsea.jpg",
        "tame/assets/photographs/coffee.jpg",
        "tame/assets/photographs/README.md",
        "tame/assets/efficientnet_lite0/attention.safetensors",
    ],
)
def test_the_wheel_holds_what_the_default_needs(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "tame").rglob("*.py")}
    assert modules <= names
    assert {name.split("/")[0] for name in names} == {"tame", f"t_tame-{tame.__version__}.dist-info"}


@pytest.mark.slow
def test_the_wheel_brings_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    folder = f"t_tame-{tame.__version__}.dist-info"
    assert any(name.startswith(folder) and name.endswith("LICENSE") for name in wheel.namelist())
    assert "tame=tame.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode().replace(" ", "")


def test_the_version_is_written_the_same_everywhere() -> None:
    assert project()["version"] == tame.__version__


def test_the_changelog_names_the_version_or_what_comes() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == tame.__version__


def test_the_lock_file_names_no_index() -> None:
    lock = (REPOSITORY / "poetry.lock").read_text(encoding="utf-8")
    assert not re.search(r"^(url = |\[package\.source\])", lock, re.MULTILINE)
