"""Import functions of the user's own code by name."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tame.utils.checks import InputError
from tame.utils.signals import Terminated

logger = logging.getLogger("tame")


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
    """Import ``package.module:function``, also from the working directory.

    Args:
        name: The function, as ``package.module:function``.
        what: What the function is used as, for the error message.

    Raises:
        InputError: If it cannot be imported, also because its module fails, or is no function.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Terminated:
        raise
    except (Exception, SystemExit) as error:  # the module's own code may raise any error
        known = isinstance(error, ImportError | AttributeError | ValueError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        raise InputError(f"expected package.module:function as the {what}, cannot import {name!r}: {reason}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"expected package.module:function as the {what}, got {name!r}, a {type(found).__name__}")
    return found
