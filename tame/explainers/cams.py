"""Class activation maps from gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from tame.backbones import FrozenClassifier
from tame.backbones.gradients import as_map, graph_from
from tame.checks import InputError
from tame.explainers.base import EXPLAINERS, CheckedExplainer
from tame.options import MethodOptions


def activations_and_gradients(
    classifier: FrozenClassifier, layer: str, images: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a layer's output A and ``d logit_t / dA``, for a batch in one forward and one backward pass.

    Works under `torch.no_grad` and `torch.inference_mode`; no parameter needs a gradient.

    Args:
        classifier: The classifier.
        layer: Name of a module; the output of its last call is meant.
        images: (B, C, H, W) in [0, 1].
        targets: Class t of each image, (B,).

    Returns:
        A and its gradient as the layer gives them, tokens (B, n, D) or maps (B, C, h, w), float32.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf, logits = graph_from(classifier, layer, images)
        # images do not influence one another, so the gradient of the sum holds each image's own gradient
        chosen = targets.clone().unsqueeze(1)  # an inference tensor cannot be part of a graph
        total = logits.gather(1, chosen).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    return leaf.detach().float(), gradient.float()


class GradCAM(CheckedExplainer):
    """Grad-CAM: the channels of a layer, weighted by their mean gradient.

    ``w_c = mean_hw(d logit_t / dA_c)``, ``map = ReLU(sum_c w_c A_c)``, with A_c the channels of the layer's
    output (h, w) and t the target. Tokens become maps by the classifier's token layout; prefix tokens are
    dropped. Maps are not negative; one that is all zero (no positive evidence) is constant.

    Args:
        classifier: The classifier to explain.
        layer: Module whose output is A.

    Raises:
        InputError: If the layer does not exist, gives no feature map, or its positions do not reach the logits.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, Eq. 1 and 2.

    Example:
        >>> from torch import nn
        >>> from tame.backbones import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = GradCAM(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4, 4])
    """

    def __init__(self, classifier: FrozenClassifier, layer: str) -> None:
        super().__init__(classifier)
        (self.layer,) = classifier.with_layers((layer,)).layers  # checks the layer and resolves aliases
        self._check_positions()

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        activations, gradients = activations_and_gradients(self.classifier, self.layer, images, targets)
        weights = as_map(self.classifier, gradients).mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return (weights * as_map(self.classifier, activations)).sum(1).relu()

    def _check_positions(self) -> None:
        """Find out now, on a random input, whether patch tokens still reach the logits."""
        preprocessing = self.classifier.spec.preprocessing
        shape = (1, preprocessing.channels, preprocessing.crop, preprocessing.crop)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.classifier.mean.device)
        targets = torch.zeros(1, dtype=torch.int64, device=images.device)
        _, gradients = activations_and_gradients(self.classifier, self.layer, images, targets)
        untrained = not gradients.any()  # an untrained head hides what reaches it
        if not untrained and not as_map(self.classifier, gradients).any():
            raise InputError(
                f"expected a layer whose patches reach the logits of {self.classifier.spec.name}, "
                f"got {self.layer!r}, where only the class token does; choose an earlier one with --cam-layer"
            )


@EXPLAINERS.register("gradcam")
def _gradcam(classifier: FrozenClassifier, options: MethodOptions) -> GradCAM:
    """Grad-CAM at the asked layer, else the spec's CAM layer, else the last tap."""
    return GradCAM(classifier, options.cam_layer or classifier.spec.cam_layer or classifier.layers[-1])
