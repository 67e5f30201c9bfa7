"""Ctrl-C and SIGTERM during training: the step is finished first, so that nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from lightning import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from tame.utils.signals import Terminated, note

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CHILD = getattr(signal, "SIGCHLD", None)  # of the end of a worker process; Windows has none


class Interrupted(BaseException):
    """Training ends because of a signal.

    Attributes:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def as_exit(self, message: str) -> BaseException:
        """Return the exception that ends a program: KeyboardInterrupt for Ctrl-C, `Terminated` for SIGTERM."""
        return KeyboardInterrupt(message) if self.number == signal.SIGINT else Terminated(message)


class Interrupts:
    """Handles SIGINT and SIGTERM while it is entered, in the main thread.

    A signal within a training step is answered after it, any other at once. Several processes agree after each batch
    whether one of them had a signal. A second signal is always answered at once.

    Args:
        alone: Whether one process trains.
    """

    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.in_step = False
        self.forward: Callable[[int], object] | None = None  # sends a signal to the processes that train instead
        self._number = 0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def received(self) -> Interrupted | None:
        """What a signal that has arrived raises, None without one."""
        return Interrupted(self._number) if self._number else None

    def __enter__(self) -> Self:
        self.install()
        return self

    def of(self, trainer: Trainer) -> None:
        """Forward signals if this process only starts those that train, as in a notebook."""
        launcher = trainer.strategy.launcher
        self.forward = launcher.kill if isinstance(launcher, _MultiProcessingLauncher) else None

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Handle the signals; again after Lightning has put its own handler of SIGTERM in place, and torch its own.

        Where workers get the signal too, torch would raise that they have ended, in the middle of a step.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self.forward = None
        self._process = os.getpid()  # which may be forked from that of before
        for number in _SIGNALS:
            self._before.setdefault(number, signal.getsignal(number))
            signal.signal(number, self._receive)
        if _CHILD and getattr(signal.getsignal(_CHILD), "__module__", "").startswith("torch."):
            self._before.setdefault(_CHILD, signal.getsignal(_CHILD))
            signal.signal(_CHILD, self._child_ended)

    def agreed(self, trainer: Trainer) -> int:
        """Return the signal that has arrived, in any of the processes, which all ask; 0 without one.

        A signal that arrives while several processes ask is answered after the next batch.
        """
        if self.alone:
            return self._number
        if not trainer.strategy.reduce_boolean_decision(bool(self._number), all=False):
            return 0
        return self._number or signal.SIGTERM

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker, which inherits the handler, and Lightning ends it
            raise KeyboardInterrupt
        first, self._number = not self._number, number
        if self.forward:
            self.forward(number)
        if first and (self.in_step or not self.alone):
            return
        note(number)
        raise Interrupted(number)

    def _child_ended(self, number: int, frame: FrameType | None) -> None:
        if not self._number:
            self._before[number](number, frame)
