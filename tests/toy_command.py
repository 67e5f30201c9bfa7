"""A command of two toy functions, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tame.cli.command import Command, Part
from tame.cli.parsing import parse


class Network:
    """Something that only Python code can give."""


def load(
    backbone: str | Path | Network = "lite",
    *,
    layers: str | Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    input_size: str | int | Sequence[int] | None = None,
    seed: int = 0,
) -> Network:
    """Load a network. It is frozen.

    Args:
        backbone: Name of the network.
        layers: Layers; default: the preset's.
        mean: Mean per channel;
            default: of the backbone.
        input_size: Size of the input.
        seed: Seed of ``random`` weights.
    """
    return Network()


def work(
    images: Sequence[str | Path] = (),
    classifier: Network | str = "lite",
    *,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
    target: Sequence[int | str] = (),
    metrics: Sequence[str] = ("ad-ic", "road"),
    map_scaling: Sequence[Literal["minmax", "rank"]] = ("minmax",),
    epochs: int | None = None,
    lr: float | None = None,
    resume: bool = True,
    all: bool = False,
    device: Literal["auto", "cpu"] = "auto",
    masking: Literal["backbone"] | Literal["cnn", "vit"] | None = None,
    num_workers: int = 0,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
    **more: Any,
) -> None:
    """Work on 10 % of the images; then stop.

    Args:
        images: Images; default: none.
        classifier: The network.
        arguments: Arguments of methods.
        target: Classes; default: the best.
        metrics: Metrics.
        map_scaling: Scalings.
        epochs: Passes over 10 % of the images; default: the preset's.
        lr: Learning rate; default: the preset's.
        resume: Go on.
        all: Show everything.
        device: auto or cpu.
        masking: Masking; default: the preset's.
        num_workers: Processes.
        seed: Seed of everything.
        out: Folder. A default is not mentioned.
        progress: Show a bar.
        more: Others.
    """


TOY = Command(
    run=lambda _: 0,
    parts=(Part(work), Part(load)),
    examples=("tame toy a.jpg",),
    positional="images",
    repeatable=("target",),
)


def read(*line: str, defaults: Mapping[str, Any] | None = None) -> Any:
    return parse(TOY, "toy", line, defaults or {})
