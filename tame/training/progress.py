"""What a training run shows: a progress bar, and of Lightning's own messages only errors."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

_LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric")


def is_verbose() -> bool:
    """Whether details are shown (``-v``): the level of this package's logger is DEBUG."""
    return logging.getLogger("tame").isEnabledFor(logging.DEBUG)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's messages and warnings; where details are shown, show each once."""
    loggers = [logging.getLogger(name) for name in _LIGHTNING]
    before = [(each.level, each.handlers[:], each.propagate) for each in loggers]
    hook, threading.excepthook = threading.excepthook, _say_nothing_of_tensorboard(threading.excepthook)
    try:
        with warnings.catch_warnings():
            for each in loggers:
                if not is_verbose():
                    each.setLevel(logging.ERROR)
                elif logging.getLogger().hasHandlers():
                    each.handlers, each.propagate = [], True
            if not is_verbose():
                warnings.filterwarnings("ignore", module=r"lightning\b")
            yield
    finally:
        threading.excepthook = hook
        for each, (level, handlers, propagate) in zip(loggers, before, strict=True):
            each.level, each.handlers, each.propagate = level, handlers, propagate
            each.setLevel(level)


def _say_nothing_of_tensorboard(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook for errors in threads that leaves out those of TensorBoard's writer, which its next call raises."""

    def say(what: threading.ExceptHookArgs) -> None:
        if not type(what.thread).__module__.startswith("tensorboard."):
            hook(what)

    return say


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, without the number of the log, and with a name for the validation before training."""

    @property
    def sanity_check_description(self) -> str:
        """What the validation before training is called."""
        return "Initialisation"

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the lines of the bars, so that a message has a line of its own."""
        for bar in (self._val_progress_bar, self._train_progress_bar):
            if bar is not None:
                bar.close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what is shown beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
