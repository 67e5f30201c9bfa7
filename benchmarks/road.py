"""ROAD's imputation beside the two ways there are, in one run on the same images and maps.

For a batch of images (224 x 224, all seven percentages, both orders) it times, as seconds per image:

- `grad-cam`: the imputer of the library of that name, as its ROAD calls it, one image and percentage at a time;
- `scipy`: a sparse direct solve of each image and percentage, all channels together;
- `ours`: `tame.functional.imputation.impute`, everything at once.

Each alone, and followed by the classifier's pass over the fourteen images. Every method gets the same removed pixels
and adds no noise. The methods take turns; a ratio is the median over the turns. The last column is the largest
difference from the direct solve.

    python -m benchmarks.road [--quick] [--data FOLDER] [--device cpu|cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from torch import Tensor

from tame.checkpoints.classifier import load_classifier
from tame.classifier import FrozenClassifier
from tame.data import Crop, load_image, walk_images
from tame.explainers import load_explainer
from tame.functional.imputation import impute
from tame.functional.masking import scale_and_upsample
from tame.functional.removal import remove_exactly
from tame.inference import bundled_images
from tame.perturbations import PassRows
from tame.perturbations.imputed import ORDERS, REMOVES
from tests.literal_road import direct_imputation

BATCH = 8


def load_images(folder: str, count: int, crop: Crop) -> Tensor:
    """Return images (count, C, H, W): of the folder, else the two bundled ones rotated and mirrored."""
    if folder:
        files = [entry.path for entry in walk_images(folder)][:count]
        return torch.stack([crop(load_image(file)) for file in files])
    pair = [crop(load_image(file)) for file in bundled_images()]
    turned = [torch.rot90(image, turns, (1, 2)) for turns in (0, 1, 2, 3) for image in pair]
    return torch.stack(turned[:count])


def one_by_one(impute_one: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return an imputer of batches from one of an image (C, H, W) and its removed pixels (H, W) on the CPU."""

    def impute_all(images: Tensor, removed: Tensor) -> Tensor:
        rows = [
            torch.stack([impute_one(image.cpu(), mask.cpu()) for mask in masks])
            for image, masks in zip(images, removed, strict=True)
        ]
        return torch.stack(rows).to(images)

    return impute_all


LIBRARY = NoisyLinearImputer(noise=0)
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad-cam": one_by_one(lambda image, mask: LIBRARY(image, (~mask).float())),
    "scipy": one_by_one(direct_imputation),
    "ours": impute,
}


def measure(classifier: FrozenClassifier, images: Tensor, removed: Tensor, turns: int) -> dict[str, dict[str, float]]:
    """Return per method the seconds per image alone and with the classifier, and the largest error."""
    rows = PassRows(device=images.device)
    alone: dict[str, list[float]] = {name: [] for name in METHODS}
    whole: dict[str, list[float]] = {name: [] for name in METHODS}
    filled: dict[str, Tensor] = {}
    impute(images[:1], removed[:1])  # warms up
    for _ in range(turns):
        for name in random.sample(list(METHODS), len(METHODS)):
            started = _now(images.device)
            filled[name] = METHODS[name](images, removed)
            between = _now(images.device)
            rows.classify(classifier.module, classifier.normalise(filled[name].flatten(0, 1)))
            alone[name].append((between - started) / len(images))
            whole[name].append((_now(images.device) - started) / len(images))
    return {
        name: {
            "imputation": statistics.median(alone[name]),
            "with classifier": statistics.median(whole[name]),
            "imputation ratio": statistics.median(a / b for a, b in zip(alone[name], alone["ours"], strict=True)),
            "with classifier ratio": statistics.median(a / b for a, b in zip(whole[name], whole["ours"], strict=True)),
            "error": float((filled[name] - filled["scipy"]).abs().max()),
        }
        for name in METHODS
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description="ROAD's imputation: the grad-cam library, scipy and ours.")
    parser.add_argument("--quick", action="store_true", help="one image and one turn, to see that it runs")
    parser.add_argument("--data", default="", help="folder of images; default: the two bundled ones")
    parser.add_argument("--device", default="cpu", help="of ours and of the classifier")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    classifier = load_classifier(device=options.device)
    crop = Crop.of(classifier.spec.preprocessing)
    with torch.inference_mode():
        images = load_images(options.data, 1 if options.quick else BATCH, crop).to(options.device)
        maps = load_explainer(classifier)(images, classifier.logits(images).argmax(1))
        scaled = scale_and_upsample(maps, (images.shape[-2], images.shape[-1]), "minmax")
        removed = torch.cat([remove_exactly(scaled, REMOVES, order) for order in ORDERS], 1)
        figures = measure(classifier, images, removed, 1 if options.quick else 3)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, {platform.machine()}")
    print(f"{len(images)} images of {tuple(images.shape[1:])}, {removed.shape[1]} imputations each; seconds per image")
    print("| method | imputation | ratio to ours | with the classifier | ratio to ours | largest error |")
    print("|---|---|---|---|---|---|")
    for name, row in figures.items():
        print(
            f"| {name} | {row['imputation']:.3f} | {row['imputation ratio']:.1f} x | {row['with classifier']:.3f} "
            f"| {row['with classifier ratio']:.1f} x | {row['error']:.1e} |"
        )
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
