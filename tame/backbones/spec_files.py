"""A classifier described in a file: ``--backbone my_model.toml``."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # it ships no types

from tame.classifier.probing.overrides import IMAGENET, SpecOverrides, read_class_names, read_size
from tame.classifier.spec import TokenLayout
from tame.utils.checks import InputError

SUFFIXES = (".toml", ".yaml", ".yml", ".json")
_LISTS = {"mean": float, "std": float, "layers": str, "class_names": str}


@dataclass(frozen=True)
class SpecFile:
    """What a file says of a classifier.

    Attributes:
        name: What the classifier is called: the file's ``name``, else its stem.
        builder: What builds the network: anything that ``--backbone`` takes, but a file.
        arguments: For the builder.
        overrides: The rest.
    """

    name: str
    builder: str
    overrides: SpecOverrides
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_spec_file(path: Path) -> SpecFile:
    """Read a spec file.

    Its keys are ``builder`` (required), ``name``, ``[arguments]`` of the builder, ``[tokens]`` with ``prefix``,
    ``grid`` and ``gate``, and those of `SpecOverrides`. ``class_names`` is a list, or a file of one name per line; it
    and ``weights`` are relative to the spec file.

    Raises:
        InputError: If it cannot be read; for an unknown key, with the known ones; for a value of another kind.
    """
    content = dict(_parse(path))
    known = {"name", "builder", "arguments", *(one.name for one in fields(SpecOverrides))}
    if unknown := sorted(content.keys() - known):
        raise InputError(f"unknown {', '.join(unknown)} in {path}; known: {', '.join(sorted(known))}")
    if not isinstance(content.get("builder"), str):
        raise InputError(f"expected builder = NAME in {path} (a backbone, timm:NAME or package.module:function)")
    arguments = content.pop("arguments", {})
    if not isinstance(arguments, Mapping):
        raise InputError(f"expected arguments of the builder by name in {path}, got {arguments!r}")
    name, builder = str(content.pop("name", path.stem)), content.pop("builder")
    try:
        overrides = SpecOverrides(**{key: _value(key, value, path) for key, value in content.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot use {path}: {error}") from error
    return SpecFile(name, builder, overrides, arguments)


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = (
            tomllib.loads(text)
            if path.suffix == ".toml"
            else json.loads(text)
            if path.suffix == ".json"
            else yaml.safe_load(text)
        )
    except OSError as error:
        raise InputError(f"no spec file {path}: {error.strerror or error}") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"expected keys and values in {path}, got {type(content).__name__}")
    return content


def _value(key: str, value: Any, path: Path) -> Any:
    """Return the value of one key as `SpecOverrides` has it."""
    if key == "class_names" and isinstance(value, str):
        return read_class_names(value if value == IMAGENET else path.parent / value)
    if key == "weights":
        return str(path.parent / value) if (path.parent / value).is_file() else str(value)
    if key == "input_size":
        return read_size(key, value)
    if key == "resize":
        return value if isinstance(value, int) else read_size(key, value)
    if key == "tokens":
        return TokenLayout(int(value["prefix"]), read_size("grid", value["grid"]), bool(value.get("gate", False)))
    if key in _LISTS:
        values = value if isinstance(value, list) else [value]
        return tuple(_LISTS[key](one) for one in values)
    if key == "num_classes":
        return int(value)
    return str(value)
