"""Imputed images: removed pixels are interpolated from their neighbours, for the metric ROAD."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.functional.imputation import impute
from tame.functional.masking import scale_and_upsample
from tame.functional.removal import check_remove, remove_by_percentile, remove_exactly
from tame.perturbations.base import Perturbation
from tame.perturbations.names import imputed_name
from tame.types import RemovalOrder
from tame.utils.checks import InputError
from tame.utils.seeds import mixed_seed

ORDERS: tuple[RemovalOrder, ...] = ("morf", "lerf")
REMOVES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
NOISE = 0.01


class ImputedInputs(Perturbation):
    """The most (MoRF) or least (LeRF) relevant pixels are replaced by noisy linear imputation.

    All sets of removed pixels of a batch are imputed together. The noise of an image depends only on the seed and the
    image's position in the list; it is the same for every method and every set of removed pixels.

    Args:
        removes: Fractions of the pixels to remove, each in (0, 1].
        selection: ``exact`` numbers of pixels, or every pixel that reaches a ``percentile`` (the authors' program).
        space: Where pixels are imputed: the ``image`` in [0, 1]; or, as in the authors' program, the input of the
            ``network``: the normalised image where masks are applied there (``vit``), so that the noise has other
            units and an image whose pixels are all removed is zero.
        noise: Standard deviation of the Gaussian noise on removed pixels.
        seed: Seed of the noise.

    Raises:
        InputError: If there is no fraction, one occurs twice or is out of range, or the noise is negative.

    Source: Rong et al., "ROAD", ICML 2022.
    """

    reads_kept = True

    def __init__(
        self,
        removes: Sequence[float] = REMOVES,
        selection: Literal["exact", "percentile"] = "exact",
        space: Literal["image", "network"] = "image",
        noise: float = NOISE,
        seed: int = 0,
    ) -> None:
        for remove in removes:
            check_remove(remove)
        if not noise >= 0:
            raise InputError(f"expected noise of 0 or more, got {noise}")
        self.removes, self.selection, self.space, self.noise, self.seed = tuple(removes), selection, space, noise, seed
        self.names = tuple(imputed_name(order, remove) for order in ORDERS for remove in removes)
        if not self.names or len(set(self.names)) < len(self.names):
            raise InputError(f"expected different fractions of pixels to remove, got {list(removes)}")

    def inputs(self, classifier: FrozenClassifier, images: Tensor, maps: Tensor, indices: Tensor) -> Iterator[Tensor]:
        """Yield the imputed images, MoRF first, removes innermost."""
        scaled = scale_and_upsample(maps, (images.shape[-2], images.shape[-1]), "minmax")
        remove = remove_exactly if self.selection == "exact" else remove_by_percentile
        removed = torch.cat([remove(scaled, self.removes, order) for order in ORDERS], 1)  # (B, 2 R, H, W)
        noise = self._noise(images, indices) if self.noise else None
        normalised = self.space == "network" and classifier.spec.masking == "vit"
        originals = classifier.normalise(images) if normalised else images
        all_removed: Literal["mean", "zero"] = "zero" if self.space == "network" else "mean"
        for position in range(len(self.names)):  # one by one: a pass takes fewer images than all of them
            filled = impute(originals, removed[:, position : position + 1], noise, all_removed=all_removed)[:, 0]
            yield filled if normalised else classifier.normalise(filled)

    def _noise(self, images: Tensor, indices: Tensor) -> Tensor:
        """Return the noise (B, C, H, W) of the images at these positions of the list, the same on every device."""

        def draw(index: int) -> Tensor:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, index))
            return torch.randn(images.shape[1:], generator=generator)

        return self.noise * torch.stack([draw(index) for index in indices.tolist()]).to(images.device)
