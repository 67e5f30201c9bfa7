"""Whole commands with and without kept memory (`tame.utils.memory`), in turns, each in a process of its own.

It times `tame evaluate --method gradcam --metrics ad-ic,road` and an epoch of `tame train` with EfficientNet-Lite0 on
the CPU, start of the process included, and shows seconds, seconds of the system alone, and the most memory used. A
ratio is the median over the turns.

    python -m benchmarks.memory [--quick] [--data FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tame.inference import bundled_images

IMAGES = 96


class Cost(NamedTuple):
    """What a process took: seconds by the clock, seconds of the system, and the most memory in MiB."""

    wall: float
    system: float
    memory: float


def commands(data: Path, images: int, out: Path) -> dict[str, list[str]]:
    """Return the measured command lines."""
    common = ["--data", str(data), "--device", "cpu", "--limit-images", str(images), "--resume", "false"]
    return {
        "evaluate": ["evaluate", "--method", "gradcam", "--metrics", "ad-ic,road", *common, "--out", str(out / "e")],
        "train": ["train", "--epochs", "1", "--limit-val-images", "4", *common, "--out", str(out / "t")],
    }


def cost_of(command: list[str], keep: bool) -> Cost:
    """Run a command."""
    environment = os.environ | {"TAME_KEEP_MEMORY": str(int(keep)), "LIST": ""}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tame", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, process.returncode, usage = os.wait4(process.pid, 0)
    if process.returncode:
        raise SystemExit(said.decode())
    return Cost(time.perf_counter() - started, usage.ru_stime, usage.ru_maxrss / 1024)


def folder_of(data: str, out: Path) -> Path:
    """Return the folder of images, by default one with many copies of the two bundled images."""
    if data:
        return Path(data)
    folder = out / "images"
    folder.mkdir()
    for number in range(IMAGES // 2):
        for file in bundled_images():
            shutil.copy(file, folder / f"{number}-{Path(file).name}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole commands with and without kept memory.")
    parser.add_argument("--quick", action="store_true", help="a few images and one turn, to see that it runs")
    parser.add_argument("--data", default="", help="folder of images; default: the two bundled ones")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    images, turns = (4, 1) if options.quick else (IMAGES, 3)
    figures = {}
    print(f"{platform.machine()}, {os.cpu_count()} cores; {images} images, medians of {turns} turns")
    print("| command | memory kept | seconds | of the system | largest memory (MiB) | left : kept |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        data = folder_of(options.data, Path(scratch))
        for name, command in commands(data, images, Path(scratch)).items():
            taken: dict[bool, list[Cost]] = {True: [], False: []}
            for _ in range(turns):
                for keep in random.sample([True, False], 2):
                    taken[keep].append(cost_of(command, keep))
            ratio = statistics.median(a.wall / b.wall for a, b in zip(taken[False], taken[True], strict=True))
            for keep, costs in taken.items():
                median = Cost(*map(statistics.median, zip(*costs, strict=True)))
                figures[f"{name}, {'kept' if keep else 'left'}"] = median._asdict()
                shown = f"{median.wall:.1f} | {median.system:.1f} | {median.memory:.0f} | {1 if keep else ratio:.2f} x"
                print(f"| {name} | {'yes' if keep else 'no'} | {shown} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
