"""Class activation maps from one forward and at most one backward pass."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.extractor import hooked_outputs
from tame.classifier.gradients import as_map, graph_from
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


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
        A and its gradient as the layer gives them, tokens or maps in any layout, float32.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf, logits = graph_from(classifier, layer, images)
        # images do not influence one another, so the gradient of the sum holds each image's own gradient
        chosen = targets.clone().unsqueeze(1)  # an inference tensor cannot be part of a graph
        total = logits.gather(1, chosen).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    return leaf.detach().float(), gradient.float()


class LayerExplainer(CheckedExplainer):
    """An explainer of what one layer gives.

    Tokens become maps by the classifier's token layout; prefix tokens are dropped.

    Args:
        classifier: The classifier to explain.
        layer: Module whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist or gives no feature map.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None) -> None:
        super().__init__(classifier)
        chosen = cam_layer_of(classifier, layer)
        (self.layer,) = classifier.with_layers((chosen,)).layers  # checks the layer and resolves aliases


class GradientCAM(LayerExplainer):
    """A map of a layer's channels A and their gradients G: one forward pass, one backward pass to the layer.

    Maps are ``ReLU(combine(A, G))``: not negative, and constant where all zero (no positive evidence).

    Args:
        classifier: The classifier to explain.
        layer: Module whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist, gives no feature map, or its positions do not reach the logits.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None) -> None:
        super().__init__(classifier, layer)
        self._check_positions()

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        activations, gradients = activations_and_gradients(self.classifier, self.layer, images, targets)
        maps = (as_map(self.classifier, values, images.shape[2:]) for values in (activations, gradients))
        return self.combine(*maps).relu()

    @abstractmethod
    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return maps (B, h, w) before the ReLU, from A and ``G = d logit_t / dA``, each (B, C, h, w)."""

    def _check_positions(self) -> None:
        """Find out now, on a random input, whether patch tokens still reach the logits."""
        shape = (1, *self.classifier.spec.preprocessing.shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.classifier.mean.device)
        targets = torch.zeros(1, dtype=torch.int64, device=images.device)
        _, gradients = activations_and_gradients(self.classifier, self.layer, images, targets)
        untrained = not gradients.any()  # an untrained head hides what reaches it
        if not untrained and not as_map(self.classifier, gradients).any():
            raise InputError(
                f"expected a layer whose patches reach the logits of {self.classifier.spec.name}, "
                f"got {self.layer!r}, where only the class token does; name an earlier layer"
            )


class GradCAM(GradientCAM):
    """Grad-CAM: the channels of a layer, weighted by their mean gradient.

    ``w_c = mean_hw(d logit_t / dA_c)``, ``map = ReLU(sum_c w_c A_c)``, with A_c the channels of the layer's
    output (h, w) and t the target. Tokens become maps by the classifier's token layout; prefix tokens are
    dropped. Maps are not negative; one that is all zero (no positive evidence) is constant.

    Args:
        classifier: The classifier to explain.
        layer: Module whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist, gives no feature map, or its positions do not reach the logits.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, Eq. 1 and 2.

    Example:
        >>> from torch import nn
        >>> from tame.classifier import BackboneSpec, Preprocessing
        >>> spec = BackboneSpec("toy", nn.Identity, Preprocessing(4, 4), class_names=("cat", "dog"))
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> explainer = GradCAM(FrozenClassifier(spec, net, layers=["1"]), "1")
        >>> explainer(torch.rand(2, 3, 4, 4), torch.tensor([0, 1])).shape
        torch.Size([2, 4, 4])
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c w_c A_c``, (B, h, w)."""
        return weighted_sum(gradients.mean((2, 3)), activations)


class GradCAMPlusPlus(GradientCAM):
    """Grad-CAM++: the channels of a layer, weighted by their positive gradients, few strong ones counting as much.

    ``w_c = sum_hw(alpha * ReLU(G))``, ``alpha = G^2 / (2 G^2 + G^3 sum_hw(A_c) + 1e-6)``,
    ``map = ReLU(sum_c w_c A_c)``. With the score exp(logit) of the paper its second and third derivatives are
    G^2 and G^3, up to a factor; like the library `grad-cam` this uses the gradient G of the logit itself.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, Eq. 7 and 19.
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c w_c A_c``, (B, h, w)."""
        total = activations.sum((2, 3), keepdim=True)  # (B, C, 1, 1)
        square = gradients**2
        alpha = square / (2 * square + total * square * gradients + 1e-6)
        return weighted_sum((gradients.relu() * alpha).sum((2, 3)), activations)


class LayerCAM(GradientCAM):
    """LayerCAM: every position of a layer, weighted by its own positive gradient.

    ``map = ReLU(sum_c ReLU(G_c) * A_c)``, elementwise, so that shallow layers too give maps in detail.

    Source: Jiang et al., "LayerCAM", IEEE Transactions on Image Processing 2021.
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c ReLU(G_c) * A_c``, (B, h, w)."""
        return (gradients.relu() * activations).sum(1)


class XGradCAM(GradientCAM):
    """XGrad-CAM: the channels of a layer, weighted by their gradient averaged where they are active.

    ``w_c = sum_hw(G_c * A_c) / (sum_hw(A_c) + 1e-7)``, ``map = ReLU(sum_c w_c A_c)``. Meant for activations that
    are not negative; where those of a channel cancel out, its weight is as large as the library's.

    Source: Fu et al., "Axiom-based Grad-CAM", BMVC 2020.
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c w_c A_c``, (B, h, w)."""
        weights = (gradients * activations).sum((2, 3)) / (activations.sum((2, 3)) + 1e-7)
        return weighted_sum(weights, activations)


class EigenCAM(LayerExplainer):
    """Eigen-CAM: the first principal component of a layer's channels. One forward pass, the same for every target.

    ``M = A - mean_hw(A)`` as a matrix (hw, C), v its first right singular vector, ``map = ReLU(M v)``. A singular
    vector has no sign of its own (the library takes what LAPACK gives): here the map is the one that correlates
    positively with the mean activation over channels. The paper does not centre A; the library does.

    Source: Muhammad and Yeasin, "Eigen-CAM", IJCNN 2020.
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``images`` (B, C, H, W); ``targets`` do not matter."""
        return self.project(layer_output(self.classifier, self.layer, images)).relu()

    @staticmethod
    def project(activations: Tensor) -> Tensor:
        """Return ``M v`` (B, h, w) of A (B, C, h, w), its sign by the rule above.

        Example:
            >>> EigenCAM.project(torch.tensor([[[[0.0, 3.0]], [[0.0, 4.0]]]]))
            tensor([[[-2.5000,  2.5000]]])
        """
        matrix = activations.flatten(2).transpose(1, 2)  # (B, hw, C)
        matrix = matrix - matrix.mean(1, keepdim=True)
        left, singular, _ = torch.linalg.svd(matrix, full_matrices=False)
        projection = left[..., 0] * singular[:, :1]  # M v, (B, hw)
        agreement = (projection * matrix.mean(2)).sum(1, keepdim=True)
        return torch.where(agreement < 0, -projection, projection).unflatten(1, activations.shape[2:])


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Return ``sum_c w_c A_c`` (B, h, w) of weights (B, C) and maps (B, C, h, w)."""
    return (weights[..., None, None] * activations).sum(1)


def layer_output(classifier: FrozenClassifier, layer: str, images: Tensor) -> Tensor:
    """Return a layer's output as maps (B, C, h, w), float32, without a graph: one forward pass."""
    with torch.no_grad():
        (output,) = hooked_outputs(classifier.module, (layer,), classifier.normalise(images))
    return as_map(classifier, output, images.shape[2:]).float()


def cam_layer_of(classifier: FrozenClassifier, layer: str | None) -> str:
    """Return the asked layer, otherwise the CAM layer of the spec, otherwise the last feature layer."""
    return layer or classifier.spec.cam_layer or classifier.layers[-1]


for _name, _title, _build, _summary, _cost, _paper in (
    (
        "gradcam",
        "Grad-CAM",
        GradCAM,
        "channels weighted by their mean gradient",
        "1 forward, 1 backward",
        "Selvaraju et al., ICCV 2017",
    ),
    (
        "gradcam++",
        "Grad-CAM++",
        GradCAMPlusPlus,
        "channels weighted by their positive gradients",
        "1 forward, 1 backward",
        "Chattopadhay et al., WACV 2018",
    ),
    (
        "layercam",
        "LayerCAM",
        LayerCAM,
        "positions weighted by their own positive gradients",
        "1 forward, 1 backward",
        "Jiang et al., TIP 2021",
    ),
    (
        "xgradcam",
        "XGrad-CAM",
        XGradCAM,
        "channels weighted by their gradient where they are active",
        "1 forward, 1 backward",
        "Fu et al., BMVC 2020",
    ),
    (
        "eigencam",
        "Eigen-CAM",
        EigenCAM,
        "first principal component of the channels, whatever the class",
        "1 forward",
        "Muhammad and Yeasin, IJCNN 2020",
    ),
):
    EXPLAINERS.register(_name)(Method(_title, _summary, _cost, _build, _paper))
