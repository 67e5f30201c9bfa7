"""The images of a report: their best classes, explained by every method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped] # it ships no types

from tame.data import Crop, ImageListDataset, array_to_photo
from tame.evaluation.folder import LOOKS
from tame.evaluation.request import EvaluationRequest
from tame.evaluation.rows import damaged
from tame.explainers.base import CheckedExplainer
from tame.explainers.build import MethodName
from tame.functional.scores import scores
from tame.reporting.report import View
from tame.utils.io import write_array

_CLASSES = 3  # of each image


class Contender(NamedTuple):
    """One method of a comparison.

    Attributes:
        text: The method as the user writes it.
        method: Its name and checkpoint.
        folder: Folder of its run.
        explainer: Explains by it.
    """

    text: str
    method: MethodName
    folder: Path
    explainer: CheckedExplainer


def views_of(
    contenders: Sequence[Contender], names: Sequence[str], request: EvaluationRequest, count: int
) -> list[View]:
    """Explain the three best classes of the first images by every method.

    Maps that an earlier call computed are read from the folders of the runs.

    Args:
        contenders: The methods, on one classifier.
        names: Their names in the report.
        request: The images.
        count: How many images to explain, at most.
    """
    classifier = contenders[0].explainer.classifier
    spec, device = classifier.spec, classifier.mean.device
    dataset = ImageListDataset(request.images.entries, Crop.of(spec.preprocessing))
    files = request.images.files[:count]
    total, quiet = len(files) * len(contenders), not request.settings.progress
    views = []
    with torch.inference_mode(), tqdm(total=total, desc="report", unit="method", disable=quiet) as bar:
        for index, file in enumerate(files):
            image = dataset[index]["image"].unsqueeze(0).to(device)
            best = scores(classifier.logits(image), spec.score)[0].topk(min(_CLASSES, spec.num_classes))
            classes = [
                (target, spec.class_names[target], confidence)
                for target, confidence in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            maps = {}
            for name, one in zip(names, contenders, strict=True):
                for target, *_ in classes:
                    maps[name, target] = _map(one, index, image, target)
                bar.update()
            views.append(View(file, array_to_photo(image[0].cpu()), classes, maps))
    return views


def _map(one: Contender, index: int, image: Tensor, target: int) -> np.ndarray:
    """Explain ``target`` on the image (1, C, H, W) at ``index``, or read the map (h, w) that an earlier call wrote."""
    path = one.folder / LOOKS / f"{index}-{target}.npy"
    if not path.is_file():
        found: np.ndarray = one.explainer(image, torch.tensor([target], device=image.device))[0].float().cpu().numpy()
        write_array(path, found)
        return found
    try:
        kept: np.ndarray = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    if getattr(kept, "ndim", 0) != 2 or kept.dtype != np.float32:
        raise damaged(path, "expected a map (h, w) float32")
    return kept
