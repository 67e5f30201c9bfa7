"""What a command leaves in its folder, compared between two runs without what depends on the clock."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

Left = dict[str, Any]
"""The content of each file by its name; None where it cannot be read."""

_LOGS = re.compile(r"logs/version_\d+/.*")  # of Lightning, in a new folder for each start
_CLOCK = re.compile(r"seconds|rows_sha256")


def left(folder: Path) -> Left:
    """Return what a run left in a folder, without the folder's own name and the number of workers."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and not _LOGS.fullmatch(name):
            found[name] = content(path)
    text = json.dumps(found).replace(str(folder), "OUT").replace(folder.name, "OUT")
    result: Left = json.loads(re.sub(r'"num_workers": \d', '"num_workers": 0', text))
    return result


def content(path: Path) -> Any:
    """Return the content of a file, None if it cannot be read."""
    try:
        return _READERS.get(path.suffix, _text)(path)
    except Exception:  # noqa: BLE001 - whatever its reader raises
        return None


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return which entries differ, and in what."""
    return [
        f"{name}: {_difference(one.get(name), other.get(name))}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def _difference(one: Any, other: Any) -> str:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return "; ".join(differences(one, other))
    return f"{str(one)[:200]}, then {str(other)[:200]}"


def _json(path: Path) -> Any:
    return _timeless(json.loads(path.read_bytes()))


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _timeless(each) for name, each in value.items() if not _CLOCK.search(name)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _rows(path: Path) -> Any:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    if not rows or any(None in row or None in row.values() for row in rows):
        raise ValueError("it is cut")
    return [_timeless(row) for row in rows if not _CLOCK.search(row.get("measure", ""))]


def _tensors(path: Path) -> Any:
    return {name: _hash(tensor.numpy()) for name, tensor in load_file(path).items()}


def _checkpoint(path: Path) -> Any:
    found = torch.load(path, weights_only=True)
    return {"step": found["global_step"], **{name: _hash(one.numpy()) for name, one in found["state_dict"].items()}}


def _array(path: Path) -> Any:
    return _hash(np.load(path))


def _picture(path: Path) -> Any:
    with Image.open(path) as picture:
        return _hash(np.asarray(picture))


def _text(path: Path) -> Any:
    """Return a text; tables have the seconds of the run."""
    return re.sub(r"\d+\.\d+ s", "# s", path.read_text())


def _hash(values: np.ndarray) -> str:
    return f"{values.shape} {hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]}"


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _json,
    ".csv": _rows,
    ".safetensors": _tensors,
    ".ckpt": _checkpoint,
    ".npy": _array,
    ".png": _picture,
}
