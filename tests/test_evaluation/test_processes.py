"""Several processes, as the command line starts them: the same numbers, and an end when one of them fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tame
from small_runs import names
from tame.evaluation import open_run
from tame.evaluation.processes import Process, Processes
from tame.utils.checks import InputError

LIGHTNINGS = ("PL_", "MASTER_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM", "DATA", "LIST")
COMMON = (
    *("--backbone", "squeezenet1_1", "--weights", "random", "--device", "cpu", "--num-workers", "0"),
    *("--batch-size", "2", "--data", "photographs"),
)
MEASURED = ("--method", "random", "--metrics", "ad-ic,road", "--list", "list.txt")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``tame evaluate`` in a process of its own, with those that it starts in its group."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LIGHTNINGS)}
    environment |= {"PYTHONPATH": str(Path(tame.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tame", "evaluate", *COMMON, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(run: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Return exit status, standard output, and our sentences on standard error, at most 200 s later."""
    try:
        output, errors = run.communicate(timeout=200)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert "Traceback" not in errors, errors
    return run.returncode, output, re.findall("tame evaluate: .*", errors)


def alive(group: int) -> bool:
    """Whether any process of a group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven photographs, and their evaluation by one process and by two."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "photographs").mkdir()
    for index in range(7):
        picture = Image.radial_gradient("L").resize((60 + 5 * index, 64)).rotate(25 * index)
        colours = [picture.point(lambda value, scale=scale: value * scale // 9) for scale in (9, 2 + index, 9 - index)]
        Image.merge("RGB", colours).save(folder / "photographs" / f"{index}.png")
    lines = [f"{index}.png {3 * index}" for index in range(7)]
    (folder / "list.txt").write_text("\n".join(lines))
    for name, more in (("one", []), ("two", ["--devices", "2"])):
        status, output, ours = finish(start(folder, *MEASURED, "--out", name, *more))
        assert (status, ours) == (0, [])
        assert output.count("AD 100 %") == 2 and output.count("A row per image and the summary are in") == 1
    return folder


@pytest.mark.slow
def test_two_processes_are_as_good_as_one(folder: Path) -> None:
    one, two = (open_run(folder / name) for name in ("one", "two"))
    assert two.rows.files == one.rows.files == [f"{index}.png" for index in range(7)]
    assert two.summary.settings == one.summary.settings  # of the weights too: both processes drew the same
    for name, values in one.rows.columns.items():
        if name.endswith("p"):
            assert two.rows.columns[name].tolist() == pytest.approx(values.tolist(), abs=1e-5), name
    for name, estimate in one.summary.metrics.items():
        assert two.summary.metrics[name] == pytest.approx(estimate, abs=1e-3), name
    assert two.summary.accuracy == one.summary.accuracy and two.summary.labelled == 7
    assert names(folder / "two") == ["rows.csv", "settings.json", "summary.json"]


@pytest.mark.slow
def test_a_finished_run_is_read_by_both(folder: Path) -> None:
    before = (folder / "two" / "rows.csv").read_bytes()
    status, output, ours = finish(start(folder, *MEASURED, "--out", "two", "--devices", "2"))
    assert (status, ours) == (0, []) and "AD 100 %" in output
    assert (folder / "two" / "rows.csv").read_bytes() == before


@pytest.mark.slow
def test_other_settings_end_both_with_one_sentence(folder: Path) -> None:
    run = start(folder, *MEASURED, "--masking", "vit", "--out", "two", "--devices", "2")
    status, output, ours = finish(run)
    assert (status, output, len(ours)) == (2, "", 1)
    assert "two holds a run with other settings: masking 'cnn', not 'vit'" in ours[0]
    assert (folder / "two" / "summary.json").is_file()


@pytest.mark.slow
def test_what_can_be_refused_is_refused_before_others_are_started(folder: Path) -> None:
    status, output, ours = finish(start(folder, "--method", "randm", "--out", "none", "--devices", "2"))
    assert (status, output, len(ours)) == (2, "", 1)
    assert "unknown method 'randm'; did you mean 'random'?" in ours[0]
    assert not (folder / "none").exists()


@pytest.mark.slow
def test_an_image_that_cannot_be_read_ends_both(folder: Path) -> None:
    """The second process finds it; the first one says that it is alone, or is ended by Lightning."""
    (folder / "broken").mkdir()
    for path in (folder / "photographs").iterdir():
        (folder / "broken" / path.name).write_bytes(b"text" if path.name == "1.png" else path.read_bytes())
    run = start(folder, "--method", "random", "--data", "broken", "--out", "cut", "--devices", "2")
    status, output, ours = finish(run)
    assert status in (2, -signal.SIGKILL) and output == ""
    assert "tame evaluate: cannot read broken/1.png: expected an image, got a file of another kind" in ours
    assert not (folder / "cut" / "summary.json").exists()


@pytest.mark.slow
def test_killed_while_two_measure_and_started_again(folder: Path) -> None:
    """The second process ends with the first, and a resumed run keeps the finished images of both."""
    arguments = *MEASURED, "--out", "killed", "--devices", "2"
    parts = folder / "killed" / "parts"
    run, started = start(folder, *arguments), time.monotonic()
    try:
        while len(list(parts.glob("*.csv"))) < 2 and run.poll() is None and time.monotonic() < started + 200:
            time.sleep(0.01)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        while alive(run.pid) and time.monotonic() < started + 300:
            time.sleep(0.1)
        assert not alive(run.pid)
    finally:
        if alive(run.pid):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    assert not (folder / "killed" / "summary.json").exists()
    finished = {line for part in parts.glob("*.csv") for line in part.read_text().splitlines()[1:]}
    assert 3 <= len(finished) < 7
    status, _, ours = finish(start(folder, *arguments))
    assert (status, ours) == (0, [])
    assert finished <= set((folder / "killed" / "rows.csv").read_text().splitlines())
    killed, two = (open_run(folder / name).summary for name in ("killed", "two"))
    assert killed.metrics == two.metrics and killed.settings == two.settings


# --- without starting any


def test_one_process_starts_nothing() -> None:
    processes = Processes("cpu")
    assert processes.device == "cpu"
    process = processes.start()
    assert (process.rank, process.count, process.wait()) == (0, 1, None)
    with process.leading() as leads:
        assert leads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "expected devices from 1 to [0-9]+, got 0"),
        ({"num_nodes": -1}, "expected num_nodes from 1 to 65536, got -1"),
        ({"device": "cuda", "devices": 9}, "cannot use 9 devices of kind cuda: "),
    ],
)
def test_devices_that_are_not_there(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Processes(**{"device": "cpu"} | options)


def leading(process: Process, work: Callable[[bool], object]) -> None:
    with process.leading() as leads:
        work(leads)


def test_the_main_process_tells_the_others_whether_to_proceed() -> None:
    said: list[bool] = []

    def fail(leads: bool) -> None:
        raise InputError("no")

    def tell(value: bool) -> bool:
        said.append(value)
        return value

    leading(Process(0, 2, from_first=tell), lambda leads: said.append(leads))
    assert said == [True, True]
    with pytest.raises(InputError, match="no"):
        leading(Process(0, 2, from_first=tell), fail)
    assert said == [True, True, False]
    leading(Process(1, 2, from_first=lambda _: True), lambda leads: said.append(leads))
    assert said == [True, True, False, False]
    with pytest.raises(SystemExit) as ended:
        leading(Process(1, 2, from_first=lambda _: False), lambda leads: None)
    assert ended.value.code == 2
