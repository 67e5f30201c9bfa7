"""Atomic file writes, text and JSON files, and the check that a run folder belongs to the current settings."""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any, TextIO, cast

from tame.utils.checks import InputError, shown
from tame.utils.owner import remove_leftovers, temporary_name

if TYPE_CHECKING:
    import numpy as np

_OTHER_FOLDER = "Choose another output folder (out), or start over (resume false)"


class WriteError(OSError):
    """A file that cannot be written; the message names it, the reason, and what is kept."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(number, os.strerror(number), str(path))
        kept = "the earlier file is kept" if os.path.lexists(path) else "no part of it is left"
        name = errno.errorcode.get(number, number)
        self.message = f"cannot write {shown(path)}: {self.strerror} ({name}); {kept}"

    def __str__(self) -> str:
        return self.message


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise errors of the system while a file is written as `WriteError`, also those that a library hides in its own.

    Libraries in Rust, such as safetensors, tell the number of the error in their message only.
    """
    try:
        yield
    except (InputError, WriteError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            hidden = re.search(r"\(os error (\d+)\)", str(cause))
            number = cause.errno if isinstance(cause, OSError) else int(hidden[1]) if hidden else None
            if number is not None:
                raise WriteError(path, number) from error
            cause = cause.__cause__ or cause.__context__
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path that is renamed to ``path`` if the block succeeds.

    The temporary file lies in the same folder, and its content is on the disk before it is renamed. Missing parent
    folders are created, and temporary files of killed processes removed. The file gets the mode of a new file, whatever
    the block makes of it.

    Raises:
        WriteError: If the disk is full, for instance; the earlier file is kept.

    Example:
        >>> from tempfile import mkdtemp
        >>> target = Path(mkdtemp()) / "new" / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(temporary_name())
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        try:
            file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            mode = S_IMODE(os.fstat(file).st_mode)
            os.close(file)
            yield temporary
            _flush(temporary, mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@cache
def _tidy(folder: Path) -> None:
    """Remove what killed processes left in a folder, when this process writes there first."""
    remove_leftovers(folder, unknown=False)


def _flush(path: Path, mode: int) -> None:
    """Wait until the content of a file is on the disk, and set its mode."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
    if S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def folder_name(name: str) -> str:
    """Return a name with slashes and colons replaced, for use as a folder name.

    Example:
        >>> folder_name("timm:resnet18")
        'timm.resnet18'
    """
    return re.sub(r"[/\\\\:]+", ".", name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; NaN becomes null, since JSON has no NaN."""
    write_text(path, json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote.

    Args:
        path: The file.
        remedy: A sentence, without its full stop, that says what to do about a damaged file.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {shown(path)}: {error}. {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{shown(path)} is damaged: expected a JSON object, got {type(content).__name__}. {remedy}")
    return content


def write_text(path: Path, text: str) -> None:
    r"""Write a text file atomically, with ``\n`` between lines, and names of files with the bytes that they have."""
    with replacing(path) as temporary, open_text(temporary, "w") as file:
        file.write(text)


def open_text(path: Path, mode: str = "r") -> TextIO:
    r"""Open a text file whose names of files are read and written byte by byte, also if they are not UTF-8.

    Line ends are neither translated nor recognised in other forms than ``\n``.
    """
    return cast(TextIO, path.open(mode, encoding="utf-8", errors="surrogateescape", newline="\n"))


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as an ``.npy`` file, atomically."""
    import numpy as np

    content = BytesIO()  # numpy writes files itself, and does not notice that the disk is full at their end
    np.save(content, values, allow_pickle=False)
    write_bytes(path, content.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def check_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Check that a run folder belongs to the current settings, before the run is resumed.

    Args:
        path: JSON file of the settings with which the run was started.
        settings: The current settings.

    Raises:
        InputError: If settings differ, listing them.
    """
    began = read_json(path, _OTHER_FOLDER) if path.is_file() else {}
    old, new = _flat(began), _flat(json.loads(json.dumps(settings, default=str)))
    differences = [
        f"{name} {old.get(name, 'unset')}, not {new.get(name, 'unset')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and not _same_content(name, old, new)
    ]
    if differences:
        raise InputError(
            f"{shown(path.parent)} holds a run with other settings: {'; '.join(differences)}. {_OTHER_FOLDER}"
        )


def _same_content(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether two different paths have the same content, such as a checkpoint that was moved."""
    return (content := old.get(f"{name}_sha256")) is not None and content == new.get(f"{name}_sha256")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as a flat mapping from dotted names to text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": repr(value)}
    return flat
