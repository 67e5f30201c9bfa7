"""The metadata of a checkpoint: JSON that another program may have written, checked before anything is done with it."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from tame.attention import ATTENTIONS, OLD_NAMES
from tame.utils.checks import InputError

FORMAT = "1"

_REQUIRED = {
    "attention": str,
    "backbone": str,
    "layers": list,
    "num_classes": int,
    "output_size": str,
    "weights_sha256": str,
}
_OPTIONAL = {"gate": bool, "source": dict, "classifier": dict, "preprocessing": dict}
_WORDS = {str: "text", list: "a list", int: "a whole number", bool: "true or false", dict: "values by name"}
_OUTPUT_SIZES = ("largest", "first")


def parse_metadata(text: str, file: Path) -> dict[str, Any]:
    """Parse the metadata of a checkpoint.

    Args:
        text: JSON.
        file: The file that it comes from, for error messages.

    Returns:
        The metadata by name, with today's name of the attention mechanism.

    Raises:
        InputError: If they cannot be parsed, are of another format, or lack a value that loading the checkpoint reads;
            if the attention mechanism is unknown.
    """
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the metadata in {file} are damaged, and cannot be read as JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise InputError(f"the metadata in {file} are damaged: expected values by name, got {reprlib.repr(metadata)}")
    if metadata.get("format") != FORMAT:
        found = reprlib.repr(metadata.get("format")).strip("'")
        raise InputError(f"expected a checkpoint of format {FORMAT}, got {found} in {file}")
    for name, kind in (_REQUIRED | _OPTIONAL).items():
        value = metadata.get(name)
        if not (isinstance(value, kind) or (value is None and name in _OPTIONAL)):
            found = "nothing" if name not in metadata else reprlib.repr(value)
            raise InputError(f"the metadata in {file} are damaged: expected {name} as {_WORDS[kind]}, got {found}")
    if not all(isinstance(layer, str) for layer in metadata["layers"]):
        raise InputError(f"the metadata in {file} are damaged: expected layers as names, got other values")
    if metadata["output_size"] not in _OUTPUT_SIZES:
        raise InputError(
            f"the metadata in {file} are damaged: expected output_size {' or '.join(_OUTPUT_SIZES)}, "
            f"got {reprlib.repr(metadata['output_size'])}"
        )
    named: str = metadata["attention"]
    mechanism = OLD_NAMES.get(named, named)
    if mechanism not in ATTENTIONS:
        raise InputError(
            f"the checkpoint {file} is of the attention mechanism {reprlib.repr(mechanism)}, which this version does "
            f"not know; known: {', '.join(ATTENTIONS.names())}"
        )
    return metadata | {"attention": mechanism}
