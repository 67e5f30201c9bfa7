"""Where a training run is logged: files in its folder, or a service."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from tame.utils.checks import InputError

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow", "none"]

_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow", "mlflow_skinny")}


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Check names of loggers.

    Raises:
        InputError: For an unknown name, none beside others, or one whose package is not installed.
    """
    if isinstance(names, str) or not names or not set(names) <= set(get_args(LoggerName)):
        raise InputError(f"expected logger, one or several of {', '.join(get_args(LoggerName))}, got {names!r}")
    if "none" in names and len(set(names)) > 1:
        raise InputError(f"expected logger none alone, got {', '.join(names)}")
    for name in names:
        packages = _PACKAGES.get(name, ())
        if packages and not any(map(find_spec, packages)):
            raise InputError(f"the logger {name} needs a package that is not installed: pip install {packages[0]}")


def build_loggers(names: Sequence[LoggerName], folder: Path) -> list[Logger]:
    """Return Lightning's loggers.

    Files are in ``logs/`` of the run's folder, with a new version per start: a resumed run keeps its earlier log.
    Weights & Biases and MLflow are configured as theirs are, by their environment variables; the run has the name of
    its folder.

    Args:
        names: Names of loggers, see `check_loggers`.
        folder: Folder of the run.
    """
    csv = CSVLogger(folder, "logs")
    made: dict[str, Logger] = {}
    for name in ("csv", "tensorboard", "wandb", "mlflow"):  # the first one has the pictures' folder
        if name not in names:
            continue
        if name == "csv":
            made[name] = csv
        elif name == "tensorboard":
            made[name] = TensorBoardLogger(folder, "logs", csv.version, default_hp_metric=False)
        elif name == "wandb":
            made[name] = WandbLogger(folder.resolve().name, folder, project="tame")
        else:
            made[name] = MLFlowLogger("tame", folder.resolve().name)
    return list(made.values())
