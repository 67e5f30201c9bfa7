"""Weights files of any training program: read without executing code, and matched to a network."""

from __future__ import annotations

import argparse
import datetime
import logging
import pathlib
import re
import types
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tame.utils.checks import InputError
from tame.utils.threads import PROCESS

logger = logging.getLogger("tame")

_SAVE = "torch.save(model.state_dict(), 'weights.pth')"
_COUNTER = "num_batches_tracked"  # counters of batch norms, which a frozen network never reads
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGED = re.compile(r"(?:^|[._])(?:ema|averaged|swa)(?:$|[._])", re.IGNORECASE)
_BESIDE = re.compile(r"loss|criterion|metric|acc|auroc|f1|precision|recall|confmat|aux", re.IGNORECASE)
_PROFILED = ("total_ops", "total_params")  # buffers that the profiler thop leaves in every module
_DEPTH = 4  # of containers in a file


@dataclass(frozen=True)
class Fit:
    """Tensors of a file that fit a network.

    Attributes:
        where: Keys of the containers around them, such as ``state_dict``; empty for the file itself.
        prefix: What their names have in front of the network's.
        state: The tensors, by the network's names.
        left_out: Names of the other tensors in the same container.
    """

    where: str
    prefix: str
    state: Mapping[str, Tensor]
    left_out: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the tensors in messages."""
        return ".".join(part for part in (self.where, self.prefix.removesuffix(".")) if part) or "the file itself"

    @property
    def averaged(self) -> bool:
        """Whether the names say that it is a moving average of the weights during training."""
        return _AVERAGED.search(self.name) is not None


def read_weights_file(path: Path) -> Mapping[str, Any]:
    """Read the content of a weights file without executing code: tensors by name, maybe in containers.

    Types without behaviour that training programs store beside the weights (argparse.Namespace, paths, numbers of
    numpy, dates) are allowed.

    Raises:
        InputError: If the file cannot be read, would need code to be run, or contains no tensors by name.
    """
    if path.suffix.lower() != ".safetensors" and _is_torchscript(path):
        raise InputError(
            f"{path} contains no weights that can be loaded safely: it is a TorchScript program; save its state_dict "
            f"with {_SAVE}, where model = torch.jit.load({path.name!r})"
        )
    try:
        if path.suffix.lower() == ".safetensors":
            content: object = load_file(path)
        else:
            with PROCESS, torch.serialization.safe_globals(_inert_types()):
                content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # corrupt files raise many kinds of errors
        raise InputError(f"{path} contains no weights that can be loaded safely: {_reason(str(error))}") from error
    if not isinstance(content, Mapping) or not any(True for _ in _containers(content)):
        keys = f" with {', '.join(map(str, list(content)[:5]))}" if isinstance(content, Mapping) and content else ""
        raise InputError(
            f"expected a state_dict (names and tensors) in {path}, got {type(content).__name__}{keys}; "
            f"save one with {_SAVE}"
        )
    return content


def matching_weights(module: nn.Module, content: Mapping[str, Any], source: str) -> Mapping[str, Tensor]:
    """Find the tensors of a file that fit a network, after a common prefix of their names is removed.

    Of the weights and a moving average of them the average is taken, as training programs evaluate it. What was taken
    and left out is logged.

    Args:
        module: The network.
        content: Content of the file.
        source: Name of the file, for messages.

    Returns:
        The tensors that fit; where none do, those that fit best, so that the caller can say what differs.

    Raises:
        InputError: If several different ones fit, naming them.
    """
    own = {key: value.shape for key, value in module.state_dict().items()}
    if not own:
        return content
    containers = list(_containers(content))
    found = [fit for where, state in containers for fit in _fits(own, where, state)]
    if not found:
        return _closest(own, containers)
    distinct: list[Fit] = []
    for fit in found:
        if not any(_same(fit.state, other.state) for other in distinct):
            distinct.append(fit)
    averaged = [fit for fit in distinct if fit.averaged]
    chosen = averaged if len(averaged) == 1 else distinct
    if len(chosen) > 1:
        raise InputError(
            f"expected weights of one network in {source}, got several that fit {type(module).__name__}: "
            f"{', '.join(fit.name for fit in distinct)}; save the one you mean with {_SAVE}"
        )
    _say(chosen[0], [fit for fit in found if fit is not chosen[0]], source)
    return chosen[0].state


def _say(chosen: Fit, others: list[Fit], source: str) -> None:
    """Log which tensors were taken and left out."""
    others = [fit for fit in others if fit.name != chosen.name]
    if chosen.averaged:
        beside = f", not {', '.join(fit.name for fit in others)}" if others else ""
        logger.warning("The moving average %s of the weights in %s is taken%s.", chosen.name, source, beside)
    elif others:
        same = ", ".join(fit.name for fit in others)
        logger.warning("The weights %s in %s are taken; %s has the same values.", chosen.name, source, same)
    elif chosen.name != "the file itself":
        logger.info("The weights %s in %s are taken.", chosen.name, source)
    if chosen.left_out:
        more = f" and {len(chosen.left_out) - 5} more" if len(chosen.left_out) > 5 else ""
        names = ", ".join(chosen.left_out[:5])
        logger.warning("Left out of %s, since the network has no such tensors: %s%s.", source, names, more)


def _containers(content: Mapping[Any, Any], where: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield every mapping that holds tensors by name, with its place in the file."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield where, tensors
    for key, value in content.items():
        if depth and isinstance(key, str) and isinstance(value, Mapping):
            yield from _containers(value, f"{where}.{key}" if where else key, depth - 1)


def _fits(own: Mapping[str, torch.Size], where: str, state: Mapping[str, Tensor]) -> Iterator[Fit]:
    """Yield the tensors of a container that fit, by the prefix of their names."""
    for plain in (False, True):  # wrappers of parallel training and compilation may also stand inside the names
        theirs = {_WRAPPERS.sub("", key): value for key, value in state.items()} if plain else dict(state)
        mine = {_WRAPPERS.sub("", key): key for key in own} if plain else {key: key for key in own}
        if len(theirs) < len(state) or len(mine) < len(own):
            return
        complete = {}
        for prefix, _ in _prefixes(mine, theirs):
            taken = {key: theirs[prefix + name] for name, key in mine.items() if prefix + name in theirs}
            whole = all(key in taken or key.endswith(_COUNTER) for key in own)
            if whole and all(value.shape == own[key] for key, value in taken.items()):
                complete[prefix] = taken
        fits = []
        for prefix, taken in complete.items():
            names = {prefix + name for name in mine}
            others = tuple(other for other in complete if other.startswith(prefix) and other != prefix)
            rest = tuple(key for key in theirs if key not in names)
            if all(_is_beside(key, prefix) or key.startswith(others) for key in rest):
                fits.append(Fit(where, prefix, taken, rest))
        if fits:
            yield from fits
            return


def _is_beside(key: str, prefix: str) -> bool:
    """Whether a tensor is not of the network: outside its prefix, of a loss or metric, or of a profiler."""
    if (prefix and not key.startswith(prefix)) or key.endswith(_PROFILED):
        return True
    first, dot, _ = key.removeprefix(prefix).partition(".")
    return bool(dot) and _BESIDE.search(first) is not None


def _prefixes(mine: Mapping[str, str], theirs: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Return the prefixes after which names of the network follow, the most frequent first."""
    counts: Counter[str] = Counter()
    for key in theirs:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in mine:
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts.most_common()


def _closest(own: Mapping[str, torch.Size], containers: list[tuple[str, Mapping[str, Tensor]]]) -> Mapping[str, Tensor]:
    """Return the tensors that share most names with the network, without their prefix."""
    mine = {key: key for key in own}
    best, most = containers[0][1], -1
    for _, state in containers:
        prefix, count = next(iter(_prefixes(mine, state)), ("", 0))
        if count > most:
            beneath = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            best, most = beneath, count
    return best


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value is other[key] or torch.equal(value, other[key]) for key, value in one.items()
    )


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _reason(message: str) -> str:
    """Return why torch refused a file, in one line and without its advice to run the file's code."""
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"it holds a Python object ({found[1]}) that cannot be read without running code, such as a whole model; "
            f"save a state_dict with {_SAVE}"
        )
    reason = message.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    return "it is no file of torch.save" if not reason or "weights_only" in reason else reason[:200]


def _plain_dict(*_factory: object) -> dict[Any, Any]:
    return {}


def _inert_types() -> list[Any]:
    """Return types without behaviour, as `torch.serialization.safe_globals` takes them."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        types.SimpleNamespace,
        (_plain_dict, "collections.defaultdict"),
        *(int, float, dict, list),  # what a defaultdict starts with
        pathlib.PurePath,
        pathlib.PurePosixPath,
        pathlib.PureWindowsPath,
        *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
        *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
        datetime.datetime,
        datetime.timedelta,
        np.dtype,
        *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    ]
