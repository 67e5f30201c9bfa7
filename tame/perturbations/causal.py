"""Images whose pixels are inserted or deleted step by step, for the metrics Insertion and Deletion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from tame.classifier import FrozenClassifier
from tame.functional.masking import scale_and_upsample
from tame.functional.removal import removal_ranks
from tame.perturbations.base import Perturbation
from tame.perturbations.names import causal_name
from tame.types import CausalOrder
from tame.utils.checks import InputError

STEPS = 28
_KERNEL, _SIGMA = 11, 5.0


class CausalInputs(Perturbation):
    """The most relevant pixels are inserted into a blurred image, or replaced by the dataset mean (deletion).

    After step s of S, ``floor(s HW / S)`` pixels are inserted or deleted; steps 0 and S are the ends of the curve. The
    blur is Gaussian, 11 pixels wide with sigma 5 (reflected at the border).

    Args:
        kinds: ``insertion``, ``deletion`` or both.
        steps: S; RISE takes 224.

    Raises:
        InputError: For no kind or no step.

    Source: Petsiuk et al., "RISE", BMVC 2018, Section 4.1.
    """

    def __init__(self, kinds: Sequence[CausalOrder], steps: int = STEPS) -> None:
        if not kinds or steps < 1:
            raise InputError(f"expected insertion or deletion in at least one step, got {list(kinds)} in {steps}")
        self.kinds, self.steps = tuple(kinds), steps
        self.names = tuple(causal_name(kind, step) for kind in kinds for step in range(steps + 1))

    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        """Yield the images of all steps; nothing is random."""
        height, width = images.shape[-2:]
        ranks = removal_ranks(scale_and_upsample(maps, (height, width), "minmax"), "morf").unsqueeze(1)
        plain = classifier.normalise(images)
        for kind in self.kinds:
            if kind == "deletion":
                other = torch.zeros_like(plain)  # the dataset mean, normalised
            else:
                other = classifier.normalise(gaussian_blur(images, [_KERNEL, _KERNEL], [_SIGMA, _SIGMA]))
            for step in range(self.steps + 1):
                moved = ranks < step * height * width // self.steps
                yield torch.where(moved, other, plain) if kind == "deletion" else torch.where(moved, plain, other)
