"""Import functions of the user's own code by name."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tame.utils.checks import InputError


def import_function(name: str, what: str) -> Any:
    """Import ``package.module:function``, also from the working directory.

    Args:
        name: The function, as ``package.module:function``.
        what: What the function is used as, for the error message.

    Raises:
        InputError: If it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"expected package.module:function as the {what}, cannot import {name!r}: {error}") from error
    finally:
        sys.path.remove(here)
    return found
