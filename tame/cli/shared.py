"""What several commands say and look up."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tame.backbones import is_code
from tame.checkpoints.classifier import DEFAULT_BACKBONE
from tame.checkpoints.native import read_metadata
from tame.explainers.build import MethodName
from tame.explainers.learned import method_of


def explain_with(checkpoint: str | Path, source: Mapping[str, Any]) -> str:
    """Return the command that explains with a trained checkpoint.

    Args:
        checkpoint: Its folder.
        source: Arguments that its classifier was loaded with, see `tame.FrozenClassifier.source`.
    """
    metadata = read_metadata(checkpoint)
    method = method_of(metadata["attention"])
    chosen = {name: value for name, value in source.items() if name != "layers"}  # those are the checkpoint's
    if "classifier" in metadata:  # the rest is recorded, but a checkpoint runs no code
        chosen = {"backbone": chosen["backbone"]} if is_code(chosen["backbone"]) else {}
    chosen |= {"method": method}
    defaults = {"backbone": DEFAULT_BACKBONE, "method": "ttame"}
    words = ["tame", "explain"]
    for name, value in chosen.items():
        if value != defaults.get(name):
            written = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{name.replace('_', '-')}", written]
    return shlex.join([*words, "--checkpoint", str(checkpoint)])


def learned_checkpoint(methods: Sequence[str], checkpoint: str | None) -> str | None:
    """Return the checkpoint that the classifier of these methods is loaded for: that of the first trained one.

    Args:
        methods: As they are written, ``ttame@FOLDER`` with a checkpoint of its own.
        checkpoint: That of trained methods without one.

    Raises:
        InputError: For an unknown method, before anything is loaded.
    """
    names = [MethodName.of(method) for method in methods]
    own = [name.checkpoint or checkpoint for name in names if name.learned]
    return own[0] if own else None
