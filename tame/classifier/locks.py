"""One lock per network: what hooks it, or changes it for a while, runs in one thread at a time."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

from torch import nn

from tame.classifier.outputs import WithOutput
from tame.utils.threads import process_lock

_locks = WeakKeyDictionary[nn.Module, AbstractContextManager[bool]]()
_table = process_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)


def network_lock(module: nn.Module) -> AbstractContextManager[bool]:
    """Return the lock of a network, the same for every classifier of it; its thread may acquire it several times.

    Passes, hooks and explanations hold it. It is acquired before `tame.utils.threads.PROCESS`, never after it.

    Args:
        module: The network, or a wrapper around it by `tame.classifier.outputs.with_output`.

    Example:
        >>> network = nn.Linear(3, 2)
        >>> with network_lock(network), network_lock(network):
        ...     network_lock(network) is network_lock(nn.Linear(3, 2))
        False
    """
    while isinstance(module, WithOutput):
        module = module.network
    with _table:
        if (lock := _locks.get(module)) is None:
            lock = _locks[module] = threading.RLock()
        return lock
