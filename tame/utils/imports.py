"""Import functions of the user's own code by name."""

from __future__ import annotations

import sys
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from tame.utils.checks import InputError
from tame.utils.threads import process_lock

_EXECUTING = process_lock()  # a file is executed by one thread, and others wait for its functions


def import_function(name: str, what: str) -> Any:
    """Import ``package.module:function``, also from the working directory, or ``path/to/file.py:function``.

    Args:
        name: The function, as ``package.module:function`` or ``file.py:function``.
        what: What the function is used as, for the error message.

    Raises:
        InputError: If it cannot be imported.
    """
    module, _, attribute = name.rpartition(":")
    try:
        found: Any = _module_of_file(Path(module)) if module.endswith(".py") else _module_of_name(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, TypeError, OSError, SyntaxError) as error:
        form = "file.py" if module.endswith(".py") else "package.module"
        raise InputError(f"expected {form}:function as the {what}, cannot import {name!r}: {error}") from error
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
