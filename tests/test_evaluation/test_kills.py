"""Evaluations and comparisons that are killed at random moments end with the same rows when they are started again.

``KILLS=25 python -m pytest -m slow tests/test_evaluation/test_kills.py`` kills each of them 25 times by each signal.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from small_runs import cells, measure, names, numbers
from tame.checkpoints.classifier import load_classifier
from tame.evaluation.records import open_run
from tame.reporting.compare import compare
from tame.utils.folders import FILES

KILLS = int(os.environ.get("KILLS", "4"))
METRICS = ["ad-ic", "deletion"]


def start(work: Callable[[], object]) -> int:
    """Do something in a process of its own; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    finally:
        os._exit(status)
    raise AssertionError


def evaluate(out: str) -> None:
    measure("gradcam", out=out, batch_size=2, metrics=METRICS, steps=3)


def compare_two(out: str) -> None:
    classifier = load_classifier("toy_cnn", device="cpu")
    asked = {"data": "photographs", "batch_size": 3, "limit_images": 9, "metrics": METRICS, "steps": 3}
    compare(("gradcam", "centre"), classifier, **asked, out=out, report=out, report_images=2, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("work", "runs"), [(evaluate, ["."]), (compare_two, ["gradcam", "centre"])])
@pytest.mark.usefixtures("toy_backbone", "photographs")
def test_killed_and_started_again(
    work: Callable[[str], None], runs: list[str], kind: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work("first")  # imports what is imported late
    began = time.monotonic()
    assert os.waitpid(start(lambda: work("whole")), 0)[1] == 0
    duration, killed, partly = time.monotonic() - began, 0, 0
    chance = random.Random(kind)
    for number in range(KILLS):
        out = f"out-{number}"
        child = start(lambda out=out: work(out))  # type: ignore[misc]
        time.sleep(chance.uniform(0, duration))
        os.kill(child, kind)
        killed += os.waitpid(child, 0)[1] != 0
        partly += any(Path(out).rglob("*.csv"))
        assert os.waitpid(start(lambda out=out: work(out)), 0)[1] == 0  # type: ignore[misc]
        for run in runs:
            one, other = Path("whole") / run, Path(out) / run
            assert cells(one) == cells(other) and numbers(open_run(one).summary) == numbers(open_run(other).summary)
        assert names(Path(out)) == names(Path("whole"))
        assert {path.name for path in Path(out).rglob(".*")} == {FILES}
    assert killed >= KILLS // 2
    sys.stdout.write(f"{kind.name}: {killed} of {KILLS} killed, {partly} of them with rows\n")
