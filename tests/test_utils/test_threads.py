"""State of the whole process belongs to one thread at a time."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tame.backbones.state_dicts import read_weights_file
from tame.utils.imports import import_function
from tame.utils.threads import PROCESS, in_this_thread, random_state, silenced


def test_two_threads_leave_the_random_state_as_it_was() -> None:
    """The second one would restore what the first one had seeded, if it did not wait."""
    before, entered, left = torch.get_rng_state(), threading.Event(), threading.Event()

    def second() -> None:
        with random_state(4):
            entered.set()
            left.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with random_state(3):
            other = pool.submit(second)
            assert not entered.wait(0.2)
        left.set()
        other.result(timeout=60)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_hook_acts_in_its_own_thread() -> None:
    hook = in_this_thread(lambda value: value + 1)
    with ThreadPoolExecutor(1) as pool:
        assert (hook(1), pool.submit(hook, 1).result()) == (2, None)


def test_other_threads_print_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(1) as pool, silenced():
        kept = sys.stderr
        sys.stdout.write("discarded")
        kept.write("discarded")
        pool.submit(print, "seen").result()
        pool.submit(print, "seen too", file=kept).result()
    kept.write("after\n")
    assert capsys.readouterr() == ("seen\n", "seen too\nafter\n")


def take_lock() -> None:
    with PROCESS:
        pass


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    held, left = threading.Event(), threading.Event()

    def hold() -> None:
        with PROCESS:
            held.set()
            left.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        held.wait()
        child = multiprocessing.get_context("fork").Process(target=take_lock)
        child.start()
        child.join(30)
        child.kill()
        left.set()
        holding.result()
    assert child.exitcode == 0


def test_weights_files_are_read_in_threads(tmp_path: Path) -> None:
    """The types that a file may hold are allowed for the whole process while it is read."""
    file = tmp_path / "weights.pth"
    before = set(torch.serialization.get_safe_globals())
    torch.save({"state_dict": {"weight": torch.ones(2)}, "options": argparse.Namespace(lr=1)}, file)

    def read(_: int) -> bool:
        return all(read_weights_file(file)["options"].lr == 1 for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_file_is_executed_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(0.2)\ndef function():\n    return 1\n")
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: import_function(f"{tmp_path}/slow.py:function", "method"), range(8)))
    assert len(found) == 1
