"""What safety in threads costs a single thread: two checkouts side by side, and eight threads beside one.

A worker of each checkout does the same work in turns, in a new order each time, so that a change of the machine's speed
meets both; a ratio is the median over the turns. The small network, for which a lock weighs most, is 4 channels wide.

    python -m benchmarks.threads --before CHECKOUT [--quick]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

import tame
from tame.classifier import FrozenClassifier, Preprocessing

HERE = Path(__file__).resolve()
THREADS = 8


def work() -> dict[str, tuple[Callable[[], object], int]]:
    """Return what is timed, by name, and how often it is done in a turn."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    large = resnet18()
    small = FrozenClassifier.from_module(net, ["1"], Preprocessing(32, 32))
    frozen = FrozenClassifier.from_module(large)
    little, image = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 224, 224)
    by = {name: tame.build_explainer(each, "gradcam") for name, each in (("small", small), ("resnet18", frozen))}
    external = tame.build_explainer(small, "grad-cam:GradCAM")
    return {
        "small network: logits": (lambda: small.logits(little), 300),
        "small network: Grad-CAM": (lambda: by["small"](little, [1]), 100),
        "small network: the library's Grad-CAM": (lambda: external(little, [1]), 30),
        "small network: tame.explain, kept": (lambda: tame.explain(little[0], small, 1, method="gradcam"), 50),
        "ResNet-18: logits": (lambda: frozen.logits(image), 5),
        "ResNet-18: Grad-CAM": (lambda: by["resnet18"](image, [1]), 3),
        "ResNet-18: freeze": (lambda: FrozenClassifier.from_module(large), 1),
    }


def serve() -> None:
    """Do the work that is named line by line; answer with the seconds that each took."""
    calls = work()
    print(*calls, sep="\t", flush=True)
    for line in sys.stdin:
        call, count = calls[line.strip()]
        started = time.perf_counter()
        for _ in range(count):
            call()
        print((time.perf_counter() - started) / count, flush=True)


class Worker:
    """A process that works with one checkout."""

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, str(HERE), "--worker", "--threads", str(torch.get_num_threads())]
        environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=checkout)
        self.names = self._line().split("\t")

    def seconds(self, name: str) -> float:
        """Return the seconds per call of the work of this name."""
        assert self.process.stdin
        print(name, file=self.process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")


def side_by_side(before: Path, turns: int) -> None:
    workers = {"before": Worker(before.resolve()), "now": Worker(HERE.parent.parent)}
    print("| one thread | before (ms) | now (ms) | now : before |")
    print("|---|---|---|---|")
    for name in workers["now"].names:
        taken: dict[str, list[float]] = {side: [] for side in workers}
        for turn in range(turns + 1):
            for side in random.sample(list(workers), 2):
                seconds = workers[side].seconds(name)
                if turn:  # the first turn warms up
                    taken[side].append(seconds)
        ratio = statistics.median(now / old for old, now in zip(taken["before"], taken["now"], strict=True))
        old, now = (1000 * statistics.median(taken[side]) for side in ("before", "now"))
        print(f"| {name} | {old:.3f} | {now:.3f} | {ratio:.3f} x |", flush=True)
    for worker in workers.values():
        worker.process.kill()
        worker.process.wait()


def many_threads(turns: int) -> None:
    print(f"\n| work | {THREADS} threads : one thread, time of as many calls |")
    print("|---|---|")
    for name, (call, count) in work().items():
        if not name.startswith("small"):
            continue

        def some(_: int, call: Callable[[], object] = call, count: int = count) -> None:
            for _ in range(count):
                call()

        ratios = []
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(turns):
                started = time.perf_counter()
                for number in range(THREADS):
                    some(number)
                one = time.perf_counter() - started
                list(pool.map(some, range(THREADS)))
                ratios.append((time.perf_counter() - started - one) / one)
        print(f"| {name} | {statistics.median(ratios):.2f} x |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of safety in threads.")
    parser.add_argument("--before", type=Path, help="checkout of another version")
    parser.add_argument("--quick", action="store_true", help="few turns, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch within an operation")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        serve()
        return
    if options.before:
        side_by_side(options.before, 2 if options.quick else 25)
    many_threads(1 if options.quick else 3)


if __name__ == "__main__":
    main()
