import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tame
from tame.utils.checks import InputError
from tame.utils.processes import end_with_parent, noticing_ended_workers

SCRIPT = """
import multiprocessing, time
from torch.utils.data import DataLoader
from tame.utils.processes import end_with_parent

class Large:
    def __len__(self): return 50
    def __getitem__(self, index): return b"x" * 4_000_000  # more than a pipe holds: a worker waits while it sends

if __name__ == "__main__":
    multiprocessing.set_start_method(METHOD)
    loader = iter(DataLoader(Large(), None, num_workers=2, collate_fn=list, worker_init_fn=end_with_parent))
    next(loader)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process is neither gone nor a zombie that its new parent has not asked about."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_with_a_killed_parent_whatever_they_are_sending(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("METHOD", repr(method)))
    environment = os.environ | {"PYTHONPATH": str(Path(tame.__file__).parent.parent)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as parent:
        try:
            assert parent.stdout is not None
            workers = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(workers) == 2 and all(map(runs, workers))
            time.sleep(1.5)
            assert all(map(runs, workers))  # not while the parent lives
            parent.kill()
            until = time.monotonic() + 60
            while any(map(runs, workers)) and time.monotonic() < until:
                time.sleep(0.2)
            assert not any(map(runs, workers))
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), ConnectionResetError(), EOFError()],
)
def test_an_ended_worker_is_one_sentence_whenever_it_ended(error: Exception) -> None:
    receiving = noticing_ended_workers(ConnectionError, EOFError)
    with pytest.raises(InputError, match="a process that reads images was ended"), receiving:
        raise error
    with pytest.raises(RuntimeError, match="another"), noticing_ended_workers(EOFError):
        raise RuntimeError("another")
    with pytest.raises(ConnectionError), noticing_ended_workers():
        raise ConnectionError


def fail(error):
    end_with_parent()
    sys.excepthook(type(error), error, None)  # as `multiprocessing.resource_sharer` does in a thread


@pytest.mark.parametrize(
    ("error", "said"), [(ConnectionResetError("reader"), ""), (EOFError(), ""), (ValueError("mine"), "mine")]
)
def test_a_worker_says_nothing_if_its_parent_no_longer_reads(capfd, error, said):
    worker = multiprocessing.get_context("fork").Process(target=fail, args=[error])
    worker.start()
    worker.join()
    errors = capfd.readouterr().err
    assert errors == (f"ValueError: {said}\n" if said else "")
