"""Commands that are killed, run out of disk, or run twice at once: is anything wrong, unreadable, or left behind?

``python tests/kills.py --moments 25`` kills each of train, evaluate, compare and explain at 25 random moments by each
of SIGKILL, SIGTERM and SIGINT, with 0 and 2 worker processes, half of the time with its workers; starts the same
command again (which is killed, too, in a fifth of the cases); and compares what is left then with what an uninterrupted
run leaves. ``--disks 20`` lets the disk be full at 20 sizes, and then starts the same command with more space; this
needs the right to mount. ``--together 5`` starts two and three of the same command at once, 5 times each. Linux only.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from left_files import Left, differences, left
from started import Started, preload
from tame.utils.owner import TEMPORARY
from toys import ToyCNN

COMMANDS = ("train", "evaluate", "compare", "explain")
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}
FAULTS = ("wrong", "unreadable", "leftovers", "orphans", "status", "lines")
_IMAGES = 8
_SLOW = 1.5  # seconds that a run may take to its end after a signal that came too late
_MORTAL = 5.0  # seconds that workers have to notice the end of their parent
_PAGE = 4096  # bytes: a disk in memory has whole pages


@dataclass
class Counts:
    """What was tried, and what was wrong."""

    tries: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    status: Counter[int] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        self.faults[kind] += 1
        self.messages.append(f"{kind}: {' '.join(what.split())[:700]}")

    def __str__(self) -> str:
        faults = ", ".join(f"{self.faults[kind]} {kind}" for kind in FAULTS)
        status = ", ".join(f"{status} x {count}" for status, count in sorted(self.status.items()))
        return f"{self.tries:3} tries: {faults}; exit status {status}"


class Kills:
    """Commands on a toy network and generated images.

    Args:
        folder: A new folder, where the toys and the runs go.
        fresh: Whether each process is a new interpreter.
        seed: Of the moments.
    """

    def __init__(self, folder: Path, fresh: bool = False, seed: int = 0) -> None:
        self.folder, self.fresh, self.random = folder, fresh, random.Random(seed)
        self.commands = _commands(folder)
        self._processes = 0
        self._references: dict[str, tuple[Left, dict[int, float]]] = {}

    def start(self, name: str, out: Path, workers: int) -> Started:
        """Start a command."""
        self._processes += 1
        arguments = [name, *self.commands[name], "--out", str(out), "--num-workers", str(workers), "--device", "cpu"]
        return Started(arguments, self.folder / "processes" / f"{self._processes:04d}-{name}", self.fresh)

    def reference(self, name: str) -> tuple[Left, dict[int, float]]:
        """Return what an uninterrupted command leaves, and its seconds by the number of workers."""
        if name not in self._references:
            found, seconds = [], {}
            for workers in (0, 2):
                out = self.folder / f"{name}-{workers}"
                run = self.start(name, out, workers)
                if run.finish():
                    raise AssertionError(f"{name} ends with {run.status}: {run.text}")
                seconds[workers] = run.seconds
                found.append(left(out))
            if wrong := differences(*found):
                raise AssertionError(f"{name} with 0 and 2 workers differs: {wrong}")
            if None in found[0].values():
                raise AssertionError(f"{name} leaves files that cannot be read: {found[0]}")
            self._references[name] = found[0], seconds
        return self._references[name]

    def kill(self, name: str, signal_name: str, workers: int, counts: Counts) -> None:
        """Kill a command at a random moment, start it again, and count what is wrong; nothing if it was too quick."""
        _, seconds = self.reference(name)
        number = signal.Signals[signal_name]
        out = self.folder / f"{name}-{signal_name}-{self._processes}"
        runs: list[Started] = []
        for _ in range(2 if self.random.random() < 0.2 else 1):
            run = self.start(name, out, workers)
            runs.append(run)
            if run.wait(self.random.random() * seconds[workers]):
                break
            run.kill(number, group=self.random.random() < 0.5)
            killed = time.monotonic()
            run.finish()
            self._check_end(run, signal_name, time.monotonic() - killed, counts)
        if runs[0].status == 0:  # its end was near, or before
            shutil.rmtree(out)
            return
        counts.tries += 1
        unreadable = [file for file, found in left(out).items() if found is None and not Path(file).match(TEMPORARY)]
        if unreadable:
            counts.add("unreadable", f"{', '.join(unreadable)} in {out}")
        self._check_same_command(name, out, workers, counts)
        for run in runs:
            self._check_workers(run, counts)
        if not counts.messages:
            shutil.rmtree(out)

    def fill(self, name: str, pages: int, inodes: int, counts: Counts) -> None:
        """Run a command on a disk that is too small, and again on a larger one; count what is wrong."""
        disk = self.folder / f"disk-{name}-{self._processes}"
        with _disk(disk, pages, inodes):
            run = self.start(name, disk / "result", self.random.choice((0, 2)))
            counts.tries += 1
            counts.status[run.finish()] += 1
            if run.status == 0:
                return  # it is large enough
            if run.status != 1:
                counts.add("status", f"{run.status}: {run.text[-600:]} ({run.output})")
            if len(run.said) != 1 or "Traceback" in run.text:
                counts.add("lines", f"{run.text[-600:]} ({run.output})")
            lost = [file for file, found in left(disk / "result").items() if found is None]
            if lost:
                counts.add("unreadable", f"{', '.join(lost)} in {disk}, see {run.output}")
            _mount("remount,size=256m,nr_inodes=100000", disk)
            self._check_same_command(name, disk / "result", 0, counts)
            self._check_workers(run, counts)

    def together(self, name: str, count: int, counts: Counts) -> None:
        """Start a command several times in one folder: each is refused, or its result is right."""
        _, seconds = self.reference(name)
        out = self.folder / f"{name}-together-{self._processes}"
        runs = []
        for index in range(count):
            if index:
                time.sleep(self.random.choice((0, 0.02, self.random.random() * seconds[0])))
            runs.append(self.start(name, out, self.random.choice((0, 2))))
        counts.tries += 1
        for run in runs:
            counts.status[run.finish()] += 1
            if run.status not in (0, 2):
                counts.add("status", f"{run.status}: {run.text[-600:]} ({run.output})")
            if "Traceback" in run.text or (run.status == 2 and len(run.said) != 1):
                counts.add("lines", f"{run.text[-600:]} ({run.output})")
        if all(run.status for run in runs):
            counts.add("wrong", f"all of them are refused: {[run.said for run in runs]}")
        self._check_left(name, out, counts)

    def whole(self, name: str) -> int:
        """Return how many pages the files of an uninterrupted command take."""
        self.reference(name)
        return sum(-(-path.stat().st_size // _PAGE) for path in (self.folder / f"{name}-0").rglob("*"))

    def _check_end(self, run: Started, signal_name: str, seconds: float, counts: Counts) -> None:
        """Check how a process ended that was killed, and what it said."""
        counts.status[run.status or 0] += 1
        text = run.text
        if run.status == 0 and seconds < _SLOW:
            return  # its end was near
        allowed = {STATUS[signal_name]} | ({-signal.Signals[signal_name]} if self.fresh else set())
        if run.status not in allowed:
            counts.add("status", f"{run.status} {seconds:.1f} s after {signal_name}: {text[-600:]} ({run.output})")
        if "Traceback" in text or (run.status in (130, 143) and len(run.said) != 1):
            counts.add("lines", f"{text[-600:]} ({run.output})")

    def _check_same_command(self, name: str, out: Path, workers: int, counts: Counts) -> None:
        """Check that the same command makes the folder what it would have been."""
        run = self.start(name, out, workers)
        status = run.finish()
        if status == 2 and "contains a finished run" in run.text:  # `train` does not do it again
            status = 0
        if status:
            counts.add("wrong", f"the same command ends with {status}: {run.text[-600:]} ({run.output})")
        else:
            self._check_left(name, out, counts)
        self._check_workers(run, counts)

    def _check_left(self, name: str, out: Path, counts: Counts) -> None:
        whole, _ = self.reference(name)
        found = left(out)
        if extra := sorted(found.keys() - whole.keys()):
            counts.add("leftovers", f"{', '.join(extra)} in {out}")
        if wrong := differences(whole, {file: found.get(file) for file in whole}):
            counts.add("wrong", f"{'; '.join(wrong)} in {out}")

    def _check_workers(self, run: Started, counts: Counts) -> None:
        until = time.monotonic() + _MORTAL
        while (living := run.living()) and time.monotonic() < until:
            time.sleep(0.05)
        if living:
            counts.add("orphans", f"{len(living)} of {run.output}")
            run.end()


def _commands(folder: Path) -> dict[str, list[str]]:
    """Write a network, images and lists, and return the options of the commands on them."""
    photographs = folder / "photographs"
    photographs.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = [f"{index:02d}.png" for index in range(_IMAGES)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(photographs / name)
    lines = [f"{name} {index % 5}\n" for index, name in enumerate(names)]
    for name, part in {"train": lines[:-3], "val": lines[-3:], "all": lines}.items():
        (folder / f"{name}.txt").write_text("".join(part))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(ToyCNN().state_dict(), folder / "toy.safetensors")
    spec = (
        f"name: toy\nbuilder: {Path(__file__).with_name('toys.py')}:ToyCNN\nweights: toy.safetensors\nresize: 36\n"
        "input_size: 32\nnum_classes: 5\nclass_names: [cat, dog, bird, fish, tree]\nlayers: [stage1, stage2, stage3]\n"
        "mean: [0.4, 0.5, 0.6]\nstd: [0.2, 0.25, 0.3]\n"
    )
    (folder / "toy.yaml").write_text(spec)
    network, data = ["--backbone", str(folder / "toy.yaml")], ["--data", str(photographs)]
    lists = ["--train-list", str(folder / "train.txt"), "--val-list", str(folder / "val.txt")]
    every = [*network, *data, "--list", str(folder / "all.txt"), "--batch-size", "3"]
    return {
        "train": [*network, *data, *lists, "--epochs", "2", "--batch-size", "2", "--init-images", "4"],
        "evaluate": [*every, "--method", "gradcam"],
        "compare": [*every, "--methods", "gradcam,centre"],
        "explain": [str(photographs), *network, "--method", "gradcam", "--batch-size", "2"],
    }


@contextmanager
def _disk(path: Path, pages: int, inodes: int) -> Iterator[None]:
    path.mkdir()
    _mount(f"size={pages * _PAGE},nr_inodes={inodes}", path)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def _mount(options: str, path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], check=True)


def sizes(whole: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield pages and inodes of disks that are too small for files of so many pages in the end, or nearly so."""
    for index in range(count):
        if index % 4 == 3:
            yield 100 * whole, 2 + index  # enough pages, but not enough files
        else:
            yield 1 + index * whole // count, 100_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=0, help="kills of each command by each signal")
    parser.add_argument("--disks", type=int, default=0, help="sizes of full disks for each command")
    parser.add_argument("--together", type=int, default=0, help="how often two, and three, run at once")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--signals", default=",".join(SIGNALS))
    parser.add_argument("--fresh", action="store_true", help="new interpreters instead of forks: slower")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a new folder, which is kept; default: a temporary one")
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())
    preload()
    kills, total = Kills(folder / "kills", arguments.fresh, arguments.seed), Counts()
    for name in arguments.commands.split(","):
        for signal_name in arguments.signals.split(",") if arguments.moments else ():
            counts = Counts()
            while counts.tries < arguments.moments:
                kills.kill(name, signal_name, (0, 2)[counts.tries % 2], counts)
            _print(f"{name} {signal_name}", counts, total)
        if arguments.disks:
            counts = Counts()
            for pages, inodes in sizes(kills.whole(name), arguments.disks):
                kills.fill(name, pages, inodes, counts)
            _print(f"{name} disk", counts, total)
        if arguments.together:
            counts = Counts()
            for index in range(2 * arguments.together):
                kills.together(name, 2 + index % 2, counts)
            _print(f"{name} together", counts, total)
    _print("all", total, Counts())
    if not arguments.out:
        shutil.rmtree(folder)
    return int(bool(total.messages))


def _print(name: str, counts: Counts, total: Counts) -> None:
    messages = counts.messages if name != "all" else ()
    print(f"{name:17} {counts}", *messages, sep="\n    ", flush=True)  # noqa: T201 - its table
    total.tries += counts.tries
    total.faults += counts.faults
    total.status += counts.status
    total.messages += counts.messages


if __name__ == "__main__":
    sys.exit(main())
