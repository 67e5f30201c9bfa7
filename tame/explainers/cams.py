"""Class activation maps from one forward and at most one backward pass."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from tame.classifier import FrozenClassifier
from tame.classifier.extractor import hooked_outputs
from tame.classifier.gradients import as_map, graph_from
from tame.classifier.target_logits import target_logits
from tame.explainers.base import CheckedExplainer
from tame.explainers.registry import EXPLAINERS, Method
from tame.utils.checks import InputError


def activations_and_gradients(
    classifier: FrozenClassifier, layer: str, images: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a layer's output A and ``d logit_t / dA``, for a batch in one forward and one backward pass.

    Works under `torch.no_grad` and `torch.inference_mode`, and with frozen parameters.

    Args:
        classifier: The classifier.
        layer: Module name (the output of its last call is used), or one call of a module such as ``pool#1``.
        images: (B, C, H, W) in [0, 1].
        targets: Class t of each image, (B,).

    Returns:
        A and its gradient in the layout of the layer's output (tokens or maps), float32.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf, logits = graph_from(classifier, layer, images)
        (gradient,) = torch.autograd.grad(target_logits(logits, targets).sum(), leaf)
    return leaf.detach().float(), gradient.float()


class LayerExplainer(CheckedExplainer):
    """Base class of methods that explain the output of one target layer.

    Tokens become maps by the classifier's token layout; prefix tokens are dropped.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist or does not return a feature map.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None) -> None:
        super().__init__(classifier)
        self.layer = cam_layer_of(classifier, layer)


class GradientCAM(LayerExplainer):
    """A map computed from a layer's channels A and their gradients G.

    ``map = ReLU(combine(A, G))``: not negative, and zero everywhere without positive evidence.

    Costs one forward pass and one backward pass to the layer.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist, is no feature map, or its positions do not reach the logits.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str | None = None) -> None:
        super().__init__(classifier, layer)
        check_positions(classifier, self.layer)

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``targets`` (B,) on ``images`` (B, C, H, W)."""
        activations, gradients = activations_and_gradients(self.classifier, self.layer, images, targets)
        maps = (as_map(self.classifier, values, images.shape[2:]) for values in (activations, gradients))
        return self.combine(*maps).relu()

    @abstractmethod
    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return maps (B, h, w) before the ReLU, from A and ``G = d logit_t / dA``, each (B, C, h, w)."""


def check_positions(classifier: FrozenClassifier, layer: str) -> None:
    """Check on a random image that the logits depend on the positions of a layer, not only on its class token.

    Raises:
        InputError: If they do not.
    """
    shape = (1, *classifier.spec.preprocessing.shape)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean.device)
    targets = torch.zeros(1, dtype=torch.int64, device=images.device)
    _, gradients = activations_and_gradients(classifier, layer, images, targets)
    untrained = not gradients.any()  # a head of zeros: nothing can be said of the layer
    if not untrained and not as_map(classifier, gradients).any():
        raise InputError(
            f"expected a layer whose patches reach the logits of {classifier.spec.name}, "
            f"got {layer!r}, where only the class token does; name an earlier layer"
        )


class GradCAM(GradientCAM):
    """Grad-CAM: the channels of a layer, weighted by their mean gradient.

    ``w_c = mean_hw(d logit_t / dA_c)``, ``map = ReLU(sum_c w_c A_c)``, with A_c the channels of the layer's
    output (h, w) and t the target. Tokens become maps by the classifier's token layout; prefix tokens are
    dropped. Maps are not negative, and zero everywhere without positive evidence.

    Args:
        classifier: The classifier to explain.
        layer: Target layer, whose output is A; default: the spec's CAM layer, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist, is no feature map, or its positions do not reach the logits.

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
    """Grad-CAM++: the channels of a layer, weighted by their positive gradients so that small regions count too.

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

    ``map = ReLU(sum_c ReLU(G_c) * A_c)``, elementwise, so that maps of shallow layers are detailed.

    Source: Jiang et al., "LayerCAM", IEEE Transactions on Image Processing 2021.
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c ReLU(G_c) * A_c``, (B, h, w)."""
        return (gradients.relu() * activations).sum(1)


class XGradCAM(GradientCAM):
    """XGrad-CAM: the channels of a layer, weighted by their gradient averaged where they are active.

    ``w_c = sum_hw(G_c * A_c) / (sum_hw(A_c) + 1e-7)``, ``map = ReLU(sum_c w_c A_c)``. It is meant for activations
    that are not negative: where those of a channel cancel out, its weight is very large, as in the library `grad-cam`.

    Source: Fu et al., "Axiom-based Grad-CAM", BMVC 2020.
    """

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Return ``sum_c w_c A_c``, (B, h, w)."""
        weights = (gradients * activations).sum((2, 3)) / (activations.sum((2, 3)) + 1e-7)
        return weighted_sum(weights, activations)


class EigenCAM(LayerExplainer):
    """Eigen-CAM: the first principal component of a layer's channels, the same for every target.

    ``M = A - mean_hw(A)`` as a matrix (hw, C), v its first right singular vector, ``map = ReLU(M v)``. The sign of a
    singular vector is arbitrary (the library `grad-cam` keeps the one that LAPACK returns): here it is chosen so that
    the map correlates positively with the mean activation over channels. The paper does not centre A; the library does.

    Costs one forward pass.

    Source: Muhammad and Yeasin, "Eigen-CAM", IJCNN 2020.
    """

    def explain(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the maps (B, h, w) of ``images`` (B, C, H, W), whatever the ``targets``."""
        return self.project(layer_output(self.classifier, self.layer, images)).relu()

    @staticmethod
    def project(activations: Tensor) -> Tensor:
        """Return ``M v`` (B, h, w) of A (B, C, h, w), with the sign described above.

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
    """Return a layer's output as maps (B, C, h, w), float32, without an autograd graph; one forward pass."""
    with torch.no_grad():
        (output,) = hooked_outputs(classifier.module, (layer,), classifier.normalise(images))
    return as_map(classifier, output, images.shape[2:]).float()


def cam_layer_of(classifier: FrozenClassifier, layer: str | None) -> str:
    """Return the module name of a layer; default: the CAM layer of the spec, otherwise the last feature layer.

    Raises:
        InputError: If the layer does not exist or does not return a feature map.
    """
    chosen = layer or classifier.spec.cam_layer or classifier.layers[-1]
    (name,) = classifier.with_layers((chosen,)).layers  # checks the layer and resolves aliases
    return name


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
        "first principal component of the channels, the same for every class",
        "1 forward",
        "Muhammad and Yeasin, IJCNN 2020",
    ),
):
    EXPLAINERS.register(_name)(Method(_title, _summary, _cost, _build, _paper))
