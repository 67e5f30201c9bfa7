"""IIA for feature maps: as in the authors' program, and with its second integral repaired."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.gradients import as_map
from tame.classifier.split import split_at
from tame.classifier.target_logits import target_logits
from tame.explainers.cams import LayerExplainer, activations_and_gradients
from tame.explainers.iia.steps import check_steps, image_steps, steps_to_one


class ReleasedIIA(LayerExplainer):
    """IIA for feature maps as in the authors' program: one integral, over the path to the image.

    ``map = sum_i sum_c G(A_i)_c * ReLU(A_i,c)``, ``A_i`` the layer's output for the image ``x0 + i / n (x - x0)``,
    i = 0 ... n, x0 the mean colour (zero after normalisation), ``G(v) = d logit_t / dv`` at the layer's value v, t
    the target. The map is signed.

    The paper iterates: a second integral runs along the path from a baseline to A_i. The program computes this
    baseline as a minimum over a dimension of size 1, which is A_i itself, so that all steps of the second path except
    the first contribute zero, and only this sum is left. `RepairedIIA` computes the second integral. One difference:
    the program inserts a ReLU before the last pooling of every network. After a ReLU this has no effect; elsewhere it
    changes the classifier, which is not done here.

    Costs n + 1 forward passes, and as many backward passes to the layer.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.
        steps: Number n of steps.
        batch_size: Interpolated images per pass; it changes the maps by rounding only.

    Raises:
        InputError: If the layer does not exist or does not return a feature map, or for less than one step or one image
            per pass.

    Source: Barkan et al., "Visual Explanations via Iterated Integrated Attributions", ICCV 2023, and the authors'
    program.
    """

    def __init__(
        self, classifier: FrozenClassifier, layer: str | None = None, steps: int = 10, batch_size: int = 32
    ) -> None:
        check_steps(steps, batch_size)
        super().__init__(classifier, layer)
        self.steps, self.batch_size = steps, batch_size

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        parts = zip(images.split(self.batch_size), targets.split(self.batch_size), strict=True)
        return torch.cat([self._maps(*part) for part in parts])

    def _maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (b, h, w) of at most ``batch_size`` images."""
        parts = []
        for chunk in steps_to_one(self.steps, images).split(max(1, self.batch_size // max(1, len(images)))):
            rows = image_steps(self.classifier, images, chunk)
            values, gradients = activations_and_gradients(self.classifier, self.layer, rows, targets.repeat(len(chunk)))
            products = as_map(self.classifier, gradients * values.relu(), images.shape[2:]).sum(1)
            parts.append(products.unflatten(0, (len(chunk), -1)).sum(0))
        return torch.stack(parts).sum(0)


class RepairedIIA(ReleasedIIA):
    """IIA for feature maps with both integrals: our repair of the authors' program, not a published result.

    ``map = sum_i sum_j sum_c G(v_ij)_c * ReLU(d_ij,c)``, ``v_ij = r + j / n (A_i - r)``, ``r = min_i A_i`` in each
    element, i and j = 0 ... n, ``d_ij = v_ij - r`` for j > 0 and ``d_i0 = r``; A_i and G as in `ReleasedIIA`. So the
    gradient is computed along the path from r to A_i, and the first step adds the contribution of the baseline.

    The program intends such a baseline, but computes the minimum over a dimension of size 1. Its triple integral (not
    offered here) computes it over the steps i, and so does this double integral. Everything else is as in the program.

    Costs n + 1 passes up to the layer, and (n + 1)^2 forward and backward passes from there, see `split_at`.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.
        steps: Number n of steps of both paths.
        batch_size: Values of the layer per pass; it changes the maps by rounding only.

    Raises:
        InputError: If the layer does not exist or does not return a feature map, or for less than one step or one value
            per pass.

    Source: Barkan et al., "Visual Explanations via Iterated Integrated Attributions", ICCV 2023, repaired.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = RepairedIIA(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self, classifier: FrozenClassifier, layer: str | None = None, steps: int = 10, batch_size: int = 32
    ) -> None:
        super().__init__(classifier, layer, steps, batch_size)
        self.split = split_at(classifier, self.layer)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        at_once = max(1, self.batch_size // (self.steps + 1))  # all steps of an image are needed together
        parts = zip(images.split(at_once), targets.split(at_once), strict=True)
        return torch.cat([self._maps(*part) for part in parts])

    def _maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (b, h, w) of images of which all steps fit into one pass."""
        fractions = steps_to_one(self.steps, images)
        rows = image_steps(self.classifier, images, fractions)
        passes = [self.split.before(part) for part in rows.split(self.batch_size)]
        outputs, *others = (torch.cat(parts).unflatten(0, (len(fractions), -1)) for parts in zip(*passes, strict=True))
        values = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # A_i, (n + 1, b, ...); steps are small
        low = values.amin(0)  # r, (b, ...)
        number = torch.arange(len(fractions), device=images.device)
        parts = []
        for pairs in torch.cartesian_prod(number, number).split(max(1, self.batch_size // max(1, len(images)))):
            i, j = pairs.T
            share = fractions[j].to(values).view(-1, *[1] * low.ndim)
            way = share * (values[i] - low)  # v_ij - r
            points = [each.flatten(0, 1) for each in (low + way, *(other[i] for other in others))]
            gradients = self._gradients(points, targets.repeat(len(i)))
            weights = torch.where(share == 0, low, way).relu().flatten(0, 1)
            products = as_map(self.classifier, gradients * weights, images.shape[2:]).sum(1)
            parts.append(products.unflatten(0, (len(i), -1)).sum(0))
        return torch.stack(parts).sum(0)

    def _gradients(self, values: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return ``d logit_t / dv`` at v, the first of ``values``, for the target t of each row (R,): (R, ...)."""
        with torch.inference_mode(False), torch.enable_grad():
            leaf, *others = (value.detach().clone() for value in values)  # an inference tensor cannot enter a graph
            logits = self.split.after(leaf.requires_grad_(), *others)
            (gradients,) = torch.autograd.grad(target_logits(logits, targets).sum(), leaf)
        return gradients
