"""``tame doctor``: what is wrong, and what to do about it."""

from __future__ import annotations

from json import dumps

from tame.cli.command import Arguments, Command, Part
from tame.health.doctor import doctor
from tame.health.findings import Diagnosis


def report(diagnosis: Diagnosis, json: bool = False) -> str:
    """Return what is printed of a diagnosis.

    Args:
        diagnosis: The findings.
        json: Print JSON.
    """
    return dumps(diagnosis.as_dicts(), indent=2) if json else str(diagnosis)


def run(arguments: Arguments) -> int:
    """Print the findings; the exit status is 1 if there is a problem."""
    diagnosis = doctor(**arguments.of(doctor))
    print(report(diagnosis, **arguments.of(report)))
    return 1 if diagnosis.problems else 0


COMMAND = Command(
    run=run,
    parts=(Part(doctor), Part(report, without=("diagnosis",))),
    examples=(
        "tame doctor",
        "tame doctor --data IMAGENET --lists datalist --num-classes 1000",
        "tame doctor runs/mine evaluations/resnet50/* --json",
    ),
    positional="runs",
)
