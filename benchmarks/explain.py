"""What an explanation costs beside classifying, in one run.

Prints, for EfficientNet-Lite0 and ResNet-50 (random weights) at batch 1 and 8, the time of: plain classification;
classification + the map of one class, by a mechanism as preset `tame` trains it (its residual branches stay at zero)
and as the paper does; + the maps of all classes; and the paper's literal form (upsample, concatenate, fuse all
classes). Each is a ratio to plain classification. The variants take turns, in a new order each time, so that a change
of the machine's speed meets all of them; the ratio is the median over the turns.

    python -m benchmarks.explain [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tame.attention import TAME
from tame.attention.model import ExplainedClassifier
from tame.backbones import load_backbone
from tests.literal import literal_class_maps

BACKBONES = ("efficientnet_lite0", "resnet50")
BATCHES = (1, 8)


def variants(backbone: str, batch: int) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    classifier = load_backbone(backbone, "random")
    spec = classifier.spec
    attention = TAME(classifier.channels, spec.num_classes).eval()
    paper = ExplainedClassifier(classifier, attention)
    ours = ExplainedClassifier(classifier, copy.deepcopy(attention))
    for norm in ours.attention.bns:
        torch.nn.init.zeros_(norm.weight)
    images = torch.rand(batch, *spec.preprocessing.shape)
    targets = torch.arange(batch)
    return {
        "classify": lambda: classifier.logits(images),
        "one class, preset tame": lambda: ours.maps(images, targets),
        "one class": lambda: paper.maps(images, targets),
        "all classes": lambda: attention(classifier(images).features),
        "literal": lambda: literal_class_maps(attention, classifier(images).features),
    }


def measure(calls: dict[str, Callable[[], object]], turns: int) -> dict[str, dict[str, float]]:
    """Time every call once per turn; return the median seconds and the median ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        for turn in range(turns + 1):
            for name, call in random.sample(list(calls.items()), len(calls)):  # what ran before leaves its mark
                started = time.perf_counter()
                call()
                if turn:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - started)
    base = seconds[next(iter(calls))]
    return {
        name: {
            "seconds": statistics.median(taken),
            "ratio": statistics.median(own / plain for own, plain in zip(taken, base, strict=True)),
        }
        for name, taken in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of an explanation beside plain classification.")
    parser.add_argument("--quick", action="store_true", help="few turns, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = []
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}")
    print("| backbone | batch | classify (ms) | one class, preset tame | one class | all classes | literal |")
    print("|---|---|---|---|---|---|---|")
    for backbone in BACKBONES:
        for batch in BATCHES:
            results = measure(variants(backbone, batch), turns=2 if options.quick else 25)
            ratios = " | ".join(f"{results[name]['ratio']:.2f} x" for name in list(results)[1:])
            print(f"| {backbone} | {batch} | {1000 * results['classify']['seconds']:.0f} | {ratios} |", flush=True)
            figures.append({"backbone": backbone, "batch": batch, "results": results})
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
