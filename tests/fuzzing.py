"""How tests with random inputs are run; import it after ``pytest.importorskip("hypothesis")``."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings

from tame.utils.checks import InputError


def tries(count: int) -> settings:
    """Run a test with ``count`` inputs, or a multiple of them; without hypothesis' own database of failures.

    In such a long run an input that takes more than two seconds is a failure.
    """
    many = count * int(os.environ.get("TAME_FUZZ", "1"))
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=many,
        deadline=None if many == count else timedelta(seconds=2),
        suppress_health_check=quiet,
        database=None,
        derandomize=many == count,
    )


def answered(function: Callable[..., Any], *arguments: Any, one_line: bool = True) -> Any:
    """Return the value, or None for an `InputError`, whose message is one line that can be printed."""
    try:
        return function(*arguments)
    except InputError as error:
        assert str(error) and not (one_line and "\n" in str(error))
        str(error).encode("utf-8")
        return None
