"""Configuration files: which ones a command line names, and what stands in them."""

from __future__ import annotations

import argparse
import json
import logging
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its types are a package of their own

from tame.utils.checks import InputError, check_size

logger = logging.getLogger("tame")

_UNSET_BEFORE = {
    "batch_size": 0,
    "clip": 0,
    "epochs": -1,
    "limit_images": 0,
    "limit_val_images": 0,
    "lr": 0,
    "num_classes": 0,
    "per_label": 0,
}
"""Numbers by which earlier versions wrote that an option is unset; texts were empty."""


def config_files(line: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that ``--config`` names, and the rest of the command line.

    They are read first, wherever they stand: what the command line says itself is stronger.

    Example:
        >>> config_files(["--epochs", "3", "--config", "run/config.json"])
        (['run/config.json'], ['--epochs', '3'])
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", action="append", default=[])
    try:
        found, rest = parser.parse_known_args(list(line))
    except argparse.ArgumentError as error:
        raise InputError("expected a file after --config") from error
    return found.config, rest


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a configuration file, YAML or JSON, as values by the names of options.

    A ``config.json`` that an earlier version of `tame train` wrote has empty texts, 0 and -1 for what is unset; they
    are left out.

    Raises:
        InputError: Naming the file, if it cannot be read or holds no options.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text) if Path(path).suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"expected a configuration file, got {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        reason = problem or " ".join(str(error).split())
        raise InputError(f"expected YAML or JSON in the configuration file {path}: {reason}{where}") from error
    check_size(content, path)
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise InputError(
            f"expected options and their values in the configuration file {path}, got {reprlib.repr(content)}"
        )
    if "" in content.values():
        logger.info("%s was written by an earlier version: what is empty, 0 or -1 there is read as unset.", path)
        return {key: value for key, value in content.items() if not _was_unset(key, value)}
    return dict(content)


def _was_unset(option: str, value: Any) -> bool:
    return value == "" or (option in _UNSET_BEFORE and value == _UNSET_BEFORE[option])
