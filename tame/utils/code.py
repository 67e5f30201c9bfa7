"""Hash code, so that a function that was edited is not taken for its earlier self."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def code_hash(source: Any) -> str:
    """Return a hash of a function, or of an object that acts as one, that changes when it is edited.

    It covers bytecode with its constants, default values, what a closure or an object holds, and the global functions,
    classes and values of the same module that the code names, and so on. Tensors, arrays and networks count by their
    values. Other modules' functions, classes and objects stand for themselves by name. Comments and line numbers do
    not matter.

    Example:
        >>> one, two = (lambda x: x + 1), (lambda x: x + 2)
        >>> code_hash(one) == code_hash(lambda x: x + 1), code_hash(one) == code_hash(two)
        (True, False)
    """
    acting = source.func if isinstance(source, functools.partial) else source
    home = getattr(acting, "__module__", None) or type(acting).__module__
    digest = hashlib.sha256()
    for part in _Parts(home).of(source):
        digest.update(part + b"\0")
    return digest.hexdigest()


class _Parts:
    """Yields what stands for a value, following the code of one module.

    Args:
        home: Name of the module.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.seen: dict[int, Any] = {}  # values by id; holding them keeps their ids from being used again

    def of(self, value: Any) -> Iterator[bytes]:
        """Yield what stands for a value; a second time, its type alone."""
        yield type(value).__qualname__.encode()
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            yield repr(value).encode()
        elif id(value) not in self.seen:
            self.seen[id(value)] = value
            yield from self._of_new(value)

    def _all(self, *values: Any) -> Iterator[bytes]:
        for value in values:
            yield from self.of(value)

    def _of_new(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, types.CodeType):
            yield value.co_code
            yield from self._all(value.co_consts, value.co_names, value.co_varnames, value.co_freevars)
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value)
        elif isinstance(value, types.MethodType):
            yield from self._all(value.__func__, value.__self__)
        elif isinstance(value, functools.partial):
            yield from self._all(value.func, value.args, value.keywords)
        elif isinstance(value, type):
            yield from self._of_class(value)
        elif isinstance(value, Mapping):
            yield from self._all(*(part for pair in value.items() for part in pair))
        elif isinstance(value, list | tuple):
            yield from self._all(*value)
        elif isinstance(value, set | frozenset):  # their order differs between processes
            yield from sorted(b"".join(_Parts(self.home).of(each)) for each in value)
        else:
            yield from self._of_object(value)

    def _of_function(self, function: types.FunctionType) -> Iterator[bytes]:
        yield from self._all(function.__code__, function.__defaults__, function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                yield from self.of(cell.cell_contents)
            except ValueError:  # not filled yet
                yield b"empty"
        if function.__module__ == self.home:
            for name in sorted(_names(function.__code__) & function.__globals__.keys()):
                yield name.encode()
                yield from self._of_global(function.__globals__[name])

    def _of_global(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, types.FunctionType | type) and value.__module__ != self.home:
            yield f"{value.__module__}.{value.__qualname__}".encode()
        else:
            yield from self.of(value)

    def _of_class(self, found: type) -> Iterator[bytes]:
        yield f"{found.__module__}.{found.__qualname__}".encode()
        if found.__module__ != self.home:
            return
        yield from self._all(*found.__bases__)
        for name, value in sorted(vars(found).items()):
            value = getattr(value, "fget", getattr(value, "__func__", value))  # of a property, static or class method
            if isinstance(value, types.FunctionType) or not name.startswith("__"):
                yield name.encode()
                yield from self.of(value)

    def _of_object(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, torch.Tensor):
            yield f"{value.dtype} {tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape}".encode() + value.tobytes()
        elif isinstance(value, torch.nn.Module):
            yield repr(value).encode()
            yield from self._all(type(value), dict(value.state_dict()))
        elif type(value).__module__ == self.home:
            yield from self._all(type(value), getattr(value, "__dict__", {}))
        elif callable(value) and (name := getattr(value, "__name__", None)):  # a function written in C
            yield str(name).encode()


def _names(code: types.CodeType) -> set[str]:
    """Return the names that code, and the functions inside it, use."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
