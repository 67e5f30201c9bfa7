"""Memory and time of explaining many small images in one run: both must not grow with their number.

It writes images of 32 x 32 pixels, explains them by Grad-CAM of a toy network, drawn at 64 pixels so that compressing
does not take most of the time, and shows, after each twentieth of them, the memory of the process and the time per
image since the line before. `growth` is the slope over the second half, in bytes per image: what the manifest's entries
take, which are held until it is written.

    python -m benchmarks.explained [--quick] [--images 20000] [--workers 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import tame.inference.result
from tame.classifier import FrozenClassifier
from tame.explainers.build import build_explainer
from tame.inference import NamedExplainer, write_explanations
from tame.utils.memory import keep_memory


class Sample(NamedTuple):
    """After a number of images: resident memory in MiB, and milliseconds per image since the sample before."""

    images: int
    memory: float
    milliseconds: float


def resident() -> float:
    """Return the memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Sampling:
    """An explainer that samples memory and time after every ``step`` images."""

    def __init__(self, explainer: nn.Module, step: int) -> None:
        self.explainer, self.step = explainer, step
        self.samples: list[Sample] = []
        self.count, self.since = 0, time.perf_counter()

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Explain a batch."""
        if self.count // self.step > len(self.samples):
            now = time.perf_counter()
            self.samples.append(Sample(self.count, resident(), 1000 * (now - self.since) / self.step))
            self.since = now
        self.count += len(images)
        return self.explainer(images, targets)


def measure(count: int, workers: int) -> list[Sample]:
    """Explain ``count`` images of two colours each."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    classifier = FrozenClassifier.from_module(network.eval(), layers=["3"], name="toy")
    sampling = Sampling(build_explainer(classifier, "gradcam"), max(1, count // 20))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "in" / f"{index:06}.png" for index in range(count)]
        files[0].parent.mkdir()
        colours = np.random.default_rng(0).integers(0, 256, (count, 2, 3), np.uint8)
        for file, (left, right) in zip(files, colours, strict=True):  # noise would take long to compress
            Image.fromarray(np.tile(np.repeat([left, right], 16, axis=0), (32, 1, 1))).save(file)
        by = NamedExplainer(classifier, sampling, "gradcam", "tame")
        write_explanations(files, [by], out=Path(folder) / "out", num_workers=workers, progress=False)
    return sampling.samples


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of explaining many small images.")
    parser.add_argument("--quick", action="store_true", help="a few images, to see that it runs")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--json", help="file for the samples")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    logging.getLogger("tame").setLevel(logging.ERROR)  # not every map has positive evidence
    tame.inference.result._SINGLE = 64
    samples = measure(100 if given.quick else given.images, given.workers)
    print(f"{'images':>8}{'MiB':>9}{'ms/image':>10}")
    for sample in samples:
        print(f"{sample.images:8}{sample.memory:9.1f}{sample.milliseconds:10.1f}")
    half = np.array(samples[len(samples) // 2 :])
    growth = np.polyfit(half[:, 0], half[:, 1], 1)[0] * 2**20
    print(f"growth {growth:.0f} bytes per image")
    if given.json:
        Path(given.json).write_text(json.dumps([sample._asdict() for sample in samples], indent=2))


if __name__ == "__main__":
    main()
