"""Files that appear whole or not at all, and the settings that a run's folder belongs to."""

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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block succeeds; missing folders are made.

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
    """Return the name of a thing as that of a folder.

    Example:
        >>> folder_name("timm:resnet18")
        'timm.resnet18'
    """
    return re.sub(r"[/\\\\:]+", ".", name)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; the file appears whole or not at all. NaN becomes null: JSON knows none."""
    text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as ``.npy``; the file appears whole or not at all."""
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
    """Check that a run's folder belongs to these settings, before it is continued.

    Args:
        path: JSON file of the settings that began the run.
        settings: Those of now.

    Raises:
        InputError: Saying what differs.
    """
    began = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    old, new = _flat(began), _flat(json.loads(json.dumps(settings, default=str)))
    differences = [
        f"{name} {old.get(name, 'unset')}, not {new.get(name, 'unset')}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and not _same_content(name, old, new)
    ]
    if differences:
        raise InputError(
            f"{path.parent} holds a run with other settings: {'; '.join(differences)}. "
            "Give another --out, or --resume false to start over"
        )


def _same_content(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Whether two names stand for the same file: a checkpoint, say, that was moved."""
    return (content := old.get(f"{name}_sha256")) is not None and content == new.get(f"{name}_sha256")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as text by dotted names."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": repr(value)}
    return flat
