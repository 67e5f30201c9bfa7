"""Integrated gradients: gradients along the straight path from the mean colour to the image."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.target_logits import target_logits
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


class IntegratedGradients(CheckedExplainer):
    """Integrated gradients: what each pixel adds to the logit along the path from the mean colour to the image.

    ``map = ReLU(sum_c (x_c - x'_c) / n * sum_k d logit_t(x' + a_k (x - x')) / dx_c)``, x the image, t the target,
    ``a_k = (k + 1/2) / n``, k = 0 ... n - 1 (the midpoint rule). The baseline x' is the classifier's mean colour,
    which is zero after normalisation. The sum over channels is signed; the ReLU after it is left out with ``signed``.
    A signed map sums to ``logit_t(x) - logit_t(x')`` up to the error of n steps: transformers have steep gradients
    around a uniform image, and 32 steps can miss a quarter of the sum. Maps have the size of the image, (B, H, W), and
    are noisy.

    Costs n forward and n backward passes per image.

    Args:
        classifier: The classifier to explain.
        steps: Number n of steps.
        signed: Keep negative evidence (no ReLU).
        batch_size: Images per forward pass, counted over images and steps; a larger batch of images is not split.

    Raises:
        InputError: For less than one step or one image per pass.

    Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017, Eq. 1, with the midpoint rule
    (Eq. 3 is a right Riemann sum).

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = IntegratedGradients(FrozenClassifier(spec, net, layers=["1"]))
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self, classifier: FrozenClassifier, steps: int = 32, signed: bool = False, batch_size: int = 64
    ) -> None:
        super().__init__(classifier)
        if steps < 1 or batch_size < 1:
            raise InputError(f"expected at least 1 step and 1 image per pass, got {steps} and {batch_size}")
        self.steps, self.signed, self.batch_size = steps, signed, batch_size

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, H, W) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        at_once = max(1, self.batch_size // max(1, len(images)))
        way = images - self.classifier.mean
        total = torch.zeros_like(way)
        fractions = (torch.arange(self.steps, device=way.device, dtype=way.dtype) + 0.5) / self.steps
        for chunk in fractions.split(at_once):
            points = self.classifier.mean + chunk.view(-1, 1, 1, 1, 1) * way  # (n, B, C, H, W)
            total += self._gradients(points.flatten(0, 1), targets.repeat(len(chunk))).view_as(points).sum(0)
        maps = (way * total / self.steps).sum(1)
        return maps if self.signed else maps.relu()

    def _gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return ``d logit_t / dx`` (B, C, H, W) of each image."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf = images.detach().clone().requires_grad_()  # an inference tensor cannot enter a graph
            total = target_logits(self.classifier.logits(leaf), targets).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        return gradient


EXPLAINERS.register("integrated_gradients")(
    Method(
        title="Integrated gradients",
        summary="gradients along the path from the mean colour to the image",
        cost="32 forward, 32 backward",
        build=IntegratedGradients,
        paper="Sundararajan et al., ICML 2017",
    )
)
