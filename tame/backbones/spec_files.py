"""Spec files: a classifier described in a TOML, YAML or JSON file, such as ``my_model.toml``."""

from __future__ import annotations

import json
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # it ships no types

from tame.classifier.probing.overrides import IMAGENET, SpecOverrides, decoded, read_class_names, read_size
from tame.classifier.spec import TokenLayout
from tame.utils.checks import InputError, check_size

SUFFIXES = (".toml", ".yaml", ".yml", ".json")
_LISTS = {"mean": float, "std": float, "layers": str, "class_names": str}


@dataclass(frozen=True)
class SpecFile:
    """Content of a spec file.

    Attributes:
        name: Name of the classifier: the key ``name``, otherwise the file's name without its suffix.
        builder: Backbone that builds the network, see `tame.backbones.find_spec`; it is not a spec file itself.
        overrides: Properties that replace the builder's own.
        arguments: Keyword arguments of the builder.
    """

    name: str
    builder: str
    overrides: SpecOverrides
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_spec_file(path: Path) -> SpecFile:
    """Read a spec file.

    Its keys are ``builder`` (required), ``name``, ``[arguments]`` of the builder, ``[tokens]`` with ``prefix``,
    ``grid`` and ``gate``, and the attributes of `SpecOverrides`. ``class_names`` is a list, or a file with one name per
    line; the paths of this file, of ``weights`` and of a builder ``file.py:function`` are relative to the spec file.

    Raises:
        InputError: If the file cannot be read, has an unknown key (listing the known ones), or a value of a wrong type.
    """
    content = dict(_parse(path))
    known = {"name", "builder", "arguments", *(one.name for one in fields(SpecOverrides))}
    if unknown := sorted(content.keys() - known):
        raise InputError(f"unknown keys {', '.join(unknown)} in {path}; known: {', '.join(sorted(known))}")
    if not isinstance(content.get("builder"), str):
        raise InputError(
            f"expected the key builder in {path} (a backbone, timm:NAME or package.module:function), "
            f"got {reprlib.repr(content.get('builder'))}"
        )
    arguments = content.pop("arguments", {})
    if not isinstance(arguments, Mapping):
        raise InputError(f"expected the arguments of the builder by name in {path}, got {reprlib.repr(arguments)}")
    name, builder = str(content.pop("name", path.stem)), _beside(path, content.pop("builder"))
    try:
        overrides = SpecOverrides(**{key: _value(key, value, path) for key, value in content.items()})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot use {path}: {error}") from error
    return SpecFile(name, builder, overrides, arguments)


def _beside(path: Path, builder: str) -> str:
    """Return a builder ``file.py:function`` with the path of its file where that stands beside the spec file."""
    file, _, function = builder.rpartition(":")
    return f"{path.parent / file}:{function}" if file.endswith(".py") and (path.parent / file).is_file() else builder


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        text = decoded(path.read_bytes())
        content = (
            tomllib.loads(text)
            if path.suffix == ".toml"
            else json.loads(text)
            if path.suffix == ".json"
            else yaml.safe_load(text)
        )
    except OSError as error:
        raise InputError(f"no spec file {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    check_size(content, path)
    if not isinstance(content, Mapping):
        raise InputError(f"expected keys and values in {path}, got {type(content).__name__}")
    return content


def _value(key: str, value: Any, path: Path) -> Any:
    """Convert the value of one key to the type that it has in `SpecOverrides`."""
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
