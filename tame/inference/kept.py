"""Keep the explainer that was built last, as long as nothing that it was built from has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class LastBuilt(Generic[T]):
    """Holds one value together with the sources that it was built from.

    Holding the sources makes it safe to compare objects by identity: their ids cannot be used again meanwhile. Threads
    may call it at once: each gets the value of its own sources, the one that was built last is held.

    Example:
        >>> last = LastBuilt[list[str]]()
        >>> one = last.get(["resnet18", 2], lambda: ["built"])
        >>> last.get(["resnet18", 2], list) is one, last.get(["resnet18", 3], list) is one
        (True, False)
    """

    def __init__(self) -> None:
        self._entry: tuple[T, Sequence[Any], object] | None = None  # value, sources, their fingerprint

    def get(self, sources: Sequence[Any], build: Callable[[], T]) -> T:
        """Return the value of ``sources``, built anew unless it was the last one.

        Args:
            sources: Everything that the value depends on, see `fingerprint`.
            build: Builds the value; it may change the sources.
        """
        entry = self._entry  # read once: other threads replace it
        if entry and entry[2] == fingerprint(sources):
            return entry[0]
        entry = self._entry = None  # frees the memory before the next value is built
        value = build()
        self._entry = value, sources, fingerprint(sources)
        return value


def fingerprint(source: Any) -> object:
    """Return a value that changes when a source changes.

    Plain values, and containers of them, are compared by value. Existing files and folders also by the times and sizes
    of their files. Networks are compared by identity, and by their parts, settings and tensors, so that training steps,
    exchanged layers, `train` and moving to another device are noticed. Everything else is compared by identity.
    """
    if isinstance(source, nn.Module):
        return id(source), tuple(map(_of_module, source.modules()))
    if isinstance(source, Tensor):
        return _of_tensor(source)
    if isinstance(source, Path):
        return str(source), _of_files(source)
    if isinstance(source, Mapping):
        return tuple((name, fingerprint(value)) for name, value in source.items())
    if isinstance(source, list | tuple):
        return type(source).__name__, tuple(map(fingerprint, source))
    if source is None or isinstance(source, str | int | float):
        return type(source).__name__, source
    return id(source)


def _of_module(module: nn.Module) -> object:
    settings = {name: value for name, value in vars(module).items() if isinstance(value, bool | int | float | str)}
    tensors = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return id(module), tuple(settings.items()), tuple((name, _of_tensor(value)) for name, value in tensors)


def _of_tensor(tensor: Tensor) -> object:
    version = None if tensor.is_inference() else tensor._version  # inference tensors do not count their changes
    return id(tensor), tensor.data_ptr(), version, tensor.requires_grad


def _of_files(path: Path) -> object:
    files = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
    return tuple((file.name, (status := file.stat()).st_mtime_ns, status.st_size) for file in files)
