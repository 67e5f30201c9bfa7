"""What each explanation method costs, beside the `grad-cam` library's own and a plain loop of RISE, in one run.

For each classifier, with random weights at 224 x 224, it times as seconds per image: a plain forward pass at the best
of several batch sizes, and of one image alone; ours; and the other program's, for Grad-CAM, Grad-CAM++, Score-CAM,
Ablation-CAM (library, at its default batch sizes) and RISE (masks one by one, in batches of the best size). "Of the
passes" is a time over that of as many plain forward passes, at the best batch size, as our method makes. Ours and the
other take turns; a ratio is the median over the turns.

    python -m benchmarks.explainers [--quick] [--backbones resnet18,resnet50 --layer layer4] [--json FILE]
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
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from tame.backbones import load_backbone
from tame.classifier import FrozenClassifier
from tame.classifier.cost import PassCounter
from tame.explainers import EXPLAINERS, build_explainer
from tame.explainers.rise import RISE

LIBRARY = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "scorecam": ScoreCAM, "ablationcam": AblationCAM}
Call = Callable[[], object]
Row = dict[str, str | int | float]


def seconds_of(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def plain_seconds(classifier: FrozenClassifier, sizes: tuple[int, ...], turns: int) -> dict[int, float]:
    """Return the seconds of a plain forward pass per image at each batch size."""
    side = classifier.spec.preprocessing.crop
    taken = {}
    with torch.inference_mode():
        for size in sizes:
            images = torch.rand(size, 3, side, side)
            classifier.logits(images)
            taken[size] = min(seconds_of(lambda given=images: classifier.logits(given)) for _ in range(turns)) / size
    return taken


def plain_rise(classifier: FrozenClassifier, image: Tensor, target: Tensor, masks: Tensor, rows: int) -> Tensor:
    """RISE as it is usually written: masks (N, H, W) of full size are multiplied on and classified."""
    given = classifier.normalise(image)
    scores = [classifier.module(given * part.unsqueeze(1)).softmax(1)[:, target] for part in masks.split(rows)]
    return torch.einsum("n,nhw->hw", torch.cat(scores).squeeze(1), masks)


def library_call(classifier: FrozenClassifier, method: str, layer: str, image: Tensor, target: Tensor) -> Call:
    """Return the library's own computation of one map; it wants parameters that take gradients."""
    given, targets = classifier.normalise(image), [ClassifierOutputTarget(int(target))]

    def call() -> object:
        classifier.module.requires_grad_(True)
        try:
            with LIBRARY[method](classifier.module, [classifier.module.get_submodule(layer)]) as cam:
                return cam(given, targets)
        finally:
            classifier.module.requires_grad_(False)
            classifier.module.zero_grad()

    return call


def measure(classifier: FrozenClassifier, layer: str, rise_masks: int, turns: int, slow: bool) -> list[Row]:
    """Return one row per method; ``slow`` includes Score-CAM and the library's Ablation-CAM, a pass per channel."""
    sizes = plain_seconds(classifier, (1, 4, 8, 16, 32), turns)
    best = min(sizes, key=sizes.__getitem__)
    plain = sizes[best]
    side = classifier.spec.preprocessing.crop
    image, target = torch.rand(1, 3, side, side), torch.tensor([1])
    counter = PassCounter(classifier)
    rows: list[Row] = [
        {"method": name, "forward": 1, "backward": 0, "seconds": seconds, "of the passes": seconds / plain}
        for name, seconds in ((f"plain forward, batches of {best}", plain), ("plain forward, one image", sizes[1]))
    ]
    for method in (*LIBRARY, "layercam", "iia", "integrated_gradients", "rise"):
        if method == "scorecam" and not slow:
            continue
        ours = {"masks": rise_masks, "layer": layer}
        taken = EXPLAINERS.get(method).arguments
        explainer = build_explainer(classifier, method, **{name: ours[name] for name in ours if name in taken})
        others: dict[str, Call] = {}
        if method in LIBRARY and (slow or method != "ablationcam"):
            others[method] = library_call(classifier, method, layer, image, target)
        elif isinstance(explainer, RISE):
            masks = torch.rand(rise_masks, side, side)
            others[method] = lambda full=masks: plain_rise(classifier, image, target, full, best)
        with counter.counting() as passes:
            explainer(image, target)
        calls: dict[str, Call] = {"ours": lambda explain=explainer: explain(image, target), **others}
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(turns):
            for name in random.sample(list(calls), len(calls)):
                with torch.no_grad() if method in ("rise", "scorecam", "ablationcam") else torch.enable_grad():
                    taken[name].append(seconds_of(calls[name]))
        ours = taken.pop("ours")
        row: Row = {
            "method": method,
            "forward": passes.forward,
            "backward": passes.backward,
            "seconds": statistics.median(ours),
            "of the passes": statistics.median(ours) / (plain * passes.forward),
        }
        for seconds in taken.values():
            row |= {
                "other": statistics.median(seconds),
                "other of the passes": statistics.median(seconds) / (plain * passes.forward),
                "ratio": statistics.median(b / a for a, b in zip(ours, seconds, strict=True)),
            }
        rows.append(row)
    return rows


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}\n")
    print("| method | forward | backward | seconds | of the passes | other program | of the passes | other : ours |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row['method']}", f"{row['forward']}", f"{row['backward']}", f"{row['seconds']:.4f}"]
        cells.append(f"{row['of the passes']:.2f} x")
        if "other" in row:
            cells += [f"{row['other']:.3f}", f"{row['other of the passes']:.2f} x", f"{row['ratio']:.2f} x"]
        else:
            cells += ["-"] * 3
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of explanation methods beside other programs.")
    parser.add_argument("--quick", action="store_true", help="one backbone, one turn, few masks, no pass per channel")
    parser.add_argument("--backbones", default="resnet18,resnet50", help="names separated by commas")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--rise-masks", type=int, default=500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    masks, turns = (16, 1) if options.quick else (options.rise_masks, 3)
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}; {masks} masks")
    figures = {}
    backbones = options.backbones.split(",")
    for name in backbones[:1] if options.quick else backbones:
        classifier = load_backbone(name, "random")
        figures[name] = measure(classifier, options.layer, masks, turns, slow=not options.quick)
        show(f"{name}, {options.layer}", figures[name])
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
