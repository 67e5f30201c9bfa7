"""Atomic file writes, and the check that a run folder belongs to the current settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tame.utils.checks import InputError

if TYPE_CHECKING:
    import numpy as np

_NOT_ALWAYS_RECORDED = ("preprocessing",)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path that is renamed to ``path`` if the block succeeds.

    Missing parent folders are created.

    Example:
        >>> from tempfile import mkdtemp
        >>> target = Path(mkdtemp()) / "new" / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def folder_name(name: str) -> str:
    """Return a name with slashes and colons replaced, for use as a folder name.

    Example:
        >>> folder_name("timm:resnet18")
        'timm.resnet18'
    """
    return re.sub(r"[/\\\\:]+", ".", name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; NaN becomes null, since JSON has no NaN."""
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as an ``.npy`` file, atomically."""
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)


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
    began = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    old, new = _flat(began), _flat(known_then(began, json.loads(json.dumps(settings, default=str))))
    differences = [
        f"{name} {old.get(name, 'unset')}, not {new.get(name, 'unset')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and not _same_content(name, old, new)
    ]
    if differences:
        raise InputError(
            f"{path.parent} holds a run with other settings: {'; '.join(differences)}. "
            "Choose another output folder (out), or start over (resume false)"
        )


def known_then(began: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that the version that began a run did not record."""
    return {name: value for name, value in settings.items() if name in began or name not in _NOT_ALWAYS_RECORDED}


def _same_content(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether two different paths have the same content, such as a checkpoint that was moved."""
    return (content := old.get(f"{name}_sha256")) is not None and content == new.get(f"{name}_sha256")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as a flat mapping from dotted names to text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": repr(value)}
    return flat
