"""Files that are written whole or not at all, and the check that a run folder belongs to the current settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from faults import assert_nothing_lost, call_fails
from tame.utils.checks import InputError
from tame.utils.io import (
    WriteError,
    check_same_settings,
    open_text,
    read_json,
    replacing,
    write_array,
    write_json,
    write_text,
)

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


# --- writers


def write_array_of_numbers(path: Path) -> None:
    write_array(path, np.arange(1000.0))


def write_with_safetensors(path: Path) -> None:
    with replacing(path) as temporary:
        save_file({"x": torch.arange(1000.0)}, temporary)


def write_with_torch(path: Path) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save({"x": torch.arange(1000.0)}, file)


def write_picture(path: Path) -> None:
    with replacing(path) as temporary:
        Image.radial_gradient("L").rotate(7).save(temporary, format="PNG")


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_text(path, "line\n" * 2000),
    "json": lambda path: write_json(path, {"numbers": list(range(1000))}),
    "array": write_array_of_numbers,
    "safetensors": write_with_safetensors,
    "torch": write_with_torch,
    "picture": write_picture,
}


@pytest.mark.parametrize("earlier", [b"earlier", None], ids=["earlier", "new"])
@pytest.mark.parametrize("writer", WRITERS)
def test_nothing_is_lost_when_a_file_cannot_be_written(tmp_path: Path, writer: str, earlier: bytes | None) -> None:
    path = tmp_path / "file"
    if earlier:
        path.write_bytes(earlier)
    assert assert_nothing_lost(lambda: WRITERS[writer](path), [path]) >= 17


@pytest.mark.parametrize(("earlier", "kept"), [(True, "the earlier file is kept"), (False, "no part of it is left")])
def test_the_message_of_a_full_disk(tmp_path: Path, earlier: bool, kept: str) -> None:
    path = tmp_path / "new" / "note.txt"
    if earlier:
        write_text(path, "before")
    with pytest.raises(WriteError) as error, call_fails("fsync", number=errno.ENOSPC):
        write_text(path, "now")
    assert str(error.value) == f"cannot write {path}: No space left on device (ENOSPC); {kept}"
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(WriteError, match=r"cannot write .*out/note.txt: .* \((EEXIST|ENOTDIR)\)"):
        write_text(tmp_path / "out" / "note.txt", "now")
    assert (tmp_path / "out").read_text() == "mine"


def test_errors_of_other_kinds_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (ValueError("no"), InputError("no")):
        with pytest.raises(type(error), match="^no$"), replacing(tmp_path / "note.txt"):
            raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_of_new_files_whatever_wrote_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for name, write in WRITERS.items():
            write(tmp_path / name)
        with replacing(tmp_path / "secret") as temporary:
            temporary.touch()
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_names_of_any_bytes_are_written_and_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\r\x85.png")
    write_text(tmp_path / "names.txt", f"{name}\n")
    assert (tmp_path / "names.txt").read_bytes() == b"caf\xe9\r\xc2\x85.png\n".replace(b"\xc2\x85", b"\x85")
    with open_text(tmp_path / "names.txt") as file:
        assert file.read() == f"{name}\n"
    write_json(tmp_path / "names.json", {"name": name})
    assert read_json(tmp_path / "names.json", "") == {"name": name}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"\x00", b'{"a": 1', b"[" * 100_000, None])
def test_damaged_json_is_told_with_the_file_and_a_way_out(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"(cannot read .*settings.json: |is damaged: ).*\. Remove it$") as error:
        read_json(path, "Remove it")
    assert "\n" not in str(error.value)
