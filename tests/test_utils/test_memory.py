"""With kept memory, the pages of large tensors are only faulted in once; the environment can turn this off."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tame.cli import main as cli
from tame.utils import memory

COUNT_FAULTS = """
import resource
import torch
from tame.utils.memory import keep_memory

done = keep_memory()
for _ in range(20):
    torch.ones(2**24)  # 64 MiB; warm-up
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(int(done), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> tuple[bool, int]:
    """Whether memory is kept, and the page faults of five large tensors, in a process of its own."""
    environment = os.environ | {"TAME_KEEP_MEMORY": keep}
    found = subprocess.run([sys.executable, "-c", COUNT_FAULTS], env=environment, capture_output=True, check=True)
    done, number = map(int, found.stdout.split())
    return bool(done), number


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_large_tensors_fault_their_pages_in_once() -> None:
    (kept, few), (left, many) = faults("1"), faults("0")
    assert not left and kept
    assert few * 10 < many


def test_every_command_keeps_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(cli, "keep_memory", lambda: called.append("keep"))
    assert cli.run_command("list", ["metrics"]) == 0 and called == ["keep"]


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAME_KEEP_MEMORY", raising=False)
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_memory()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_memory()
