import signal
import threading
import time

import pytest

from tame.utils.time_limit import time_limit


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_block_within_the_limit_leaves_no_timer() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    with time_limit(0.05):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    spin(0.1)


def test_a_block_that_takes_too_long_is_interrupted_and_the_callers_timer_goes_on() -> None:
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(TimeoutError, match=r"it takes longer than 0.05 s"), time_limit(0.05):
            spin(60)
        assert not rung
        spin(0.4)
        assert rung == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_other_threads_have_no_limit() -> None:
    done: list[str] = []

    def work() -> None:
        with time_limit(0.01):
            spin(0.1)
        done.append("all")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["all"]
