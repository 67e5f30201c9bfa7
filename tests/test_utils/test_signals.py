"""SIGTERM and Ctrl-C are answered wherever they arrive."""

import gc
import os
import signal
import sys
import time

import pytest
import torch

from tame.utils.signals import Terminated, terminable

ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


class Finalised:
    """Sends a signal to this process when it is no longer used; Python drops what is raised then."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0)  # the signal is handled here at the latest


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_in_a_finalizer_is_answered_after_it(number):
    hook = sys.unraisablehook
    with pytest.raises(ENDS[number]), terminable():
        Finalised(number)
        time.sleep(10)
    assert sys.unraisablehook is hook


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_while_a_process_is_forked_is_answered_after_it(number):
    waiting = [number]
    os.register_at_fork(after_in_parent=lambda: waiting and os.kill(os.getpid(), waiting.pop()))
    with pytest.raises(ENDS[number]), terminable():
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(10)


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_in_a_finalizer_is_not_lost_if_the_block_ends_before_it_is_answered(number):
    with pytest.raises(ENDS[number]), terminable():
        Finalised(number)
        raise ValueError("of a worker that was ended, too")
    time.sleep(0.2)  # it is not sent any more


@pytest.mark.parametrize("number", ENDS)
def test_an_error_that_a_signal_led_to_is_not_raised(number):
    """As torch makes a TypeError of what is raised while it looks at a value."""
    with pytest.raises(ENDS[number]), terminable():
        try:
            os.kill(os.getpid(), number)
            time.sleep(1)
        except BaseException:
            raise TypeError("could not determine the shape") from None


class Half:
    def __del__(self):
        raise AttributeError("as torch's loader that has not started all its workers")


@pytest.mark.parametrize("number", ENDS)
def test_what_is_left_half_done_prints_nothing(monkeypatch, number):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def work():
        half = Half()
        os.kill(os.getpid(), number)
        time.sleep(1)
        return half

    with pytest.raises(ENDS[number]) as error, terminable():
        work()
    del error
    gc.collect()
    assert not told


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_errors_of_finalizers_are_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Wrong:
        def __del__(self):
            raise ValueError("no")

    with terminable():
        Wrong()
    assert [str(each.exc_value) for each in told] == ["no"]


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.01)
        return index


def test_workers_that_are_told_to_end_too_raise_nothing():
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with terminable():
            batches = iter(torch.utils.data.DataLoader(Numbers(), num_workers=1))
            next(batches)
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
            os.kill(batches._workers[0].pid, signal.SIGTERM)
            batches._workers[0].join(10)  # torch raises here otherwise
    finally:
        signal.signal(signal.SIGCHLD, before)
