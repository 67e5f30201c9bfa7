"""Import functions of the user's own code by name."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tame.utils.checks import InputError
from tame.utils.signals import Terminated
from tame.utils.threads import process_lock

logger = logging.getLogger("tame")

_EXECUTING = process_lock()  # a file is executed by one thread, and others wait for its functions


@contextmanager
def running(name: str, failed: str = "failed") -> Iterator[None]:
    """Raise any error of the user's own code as an InputError of one line; ``-v`` shows where it was raised.

    Args:
        name: The function that is called, as the user named it.
        failed: What the message says of it.
    """
    try:
        yield
    except (InputError, Terminated):
        raise
    except (Exception, SystemExit) as error:
        logger.debug("%s %s:", name, failed, exc_info=True)
        raise InputError(f"{name} {failed}: {type(error).__name__}: {error}") from error


def import_function(name: str, what: str) -> Any:
    """Import ``package.module:function``, also from the working directory, or ``path/to/file.py:function``.

    Args:
        name: The function, as ``package.module:function`` or ``file.py:function``.
        what: What the function is used as, for the error message.

    Raises:
        InputError: If it cannot be imported, also because its module fails, or is no function.
    """
    module, _, attribute = name.rpartition(":")
    try:
        found: Any = _module_of_file(Path(module)) if module.endswith(".py") else _module_of_name(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Terminated:
        raise
    except (Exception, SystemExit) as error:  # the module's own code may raise any error
        form = "file.py" if module.endswith(".py") else "package.module"
        known = isinstance(error, ImportError | AttributeError | ValueError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        raise InputError(f"expected {form}:function as the {what}, cannot import {name!r}: {reason}") from error
    if not callable(found):
        raise InputError(f"expected package.module:function as the {what}, got {name!r}, a {type(found).__name__}")
    return found


def absolute(name: str) -> str:
    """Return the name of a file, or ``file.py:function``, with its absolute path; other names unchanged.

    Example:
        >>> absolute("package.module:function")
        'package.module:function'
    """
    file, colon, function = name.rpartition(":") if ".py:" in name else (name, "", "")
    return f"{Path(file).resolve()}{colon}{function}" if Path(file).is_file() else name


def _module_of_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return import_module(name)
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _module_of_file(path: Path) -> ModuleType:
    """Return the module of a file, executed once unless the file changes; it may import files beside it."""
    path = path.expanduser().resolve()
    content = path.read_bytes()
    name = f"{path.stem}_{sha256(str(path).encode() + content).hexdigest()[:16]}"
    with _EXECUTING:
        return sys.modules[name] if name in sys.modules else _executed(path, name)


def _executed(path: Path, name: str) -> ModuleType:
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        if str(path.parent) in sys.path:
            sys.path.remove(str(path.parent))
    return module
