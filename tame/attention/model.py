"""Classifier and attention mechanism together: class maps and the masked second pass of training."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.classifier.gradients import as_map
from tame.classifier.split import SplitClassifier, split_at
from tame.functional.masking import soft_keep_top, soft_rank
from tame.types import MaskingKind
from tame.utils.checks import InputError


class TrainingPass(NamedTuple):
    """Inputs of the loss for one batch.

    Attributes:
        targets: Predicted class of each image, (B,) int64.
        maps: Maps of each image for its predicted class and for other classes, (B, N, h, w) in [0, 1].
        masked_logits: Logits of the images (or of their features) masked with the map of the predicted class, (B, K).
    """

    targets: Tensor
    maps: Tensor
    masked_logits: Tensor


class ExplainedClassifier(nn.Module):
    """A frozen classifier and the attention mechanism that explains it.

    Args:
        classifier: The frozen classifier.
        attention: The attention mechanism, from the classifier's features to class maps; the only part that is trained.
            Its attribute ``masks`` says what the maps multiply in the second pass: the image, or the feature map
            (L-CAM-Fm).

    Raises:
        InputError: If the mechanism is for other feature channels or another number of classes.
    """

    def __init__(self, classifier: FrozenClassifier, attention: nn.Module) -> None:
        super().__init__()
        if attention.channels != classifier.channels:
            raise InputError(
                f"expected an attention mechanism for features of {classifier.channels} channels "
                f"({', '.join(classifier.layers)}), got one for {attention.channels}"
            )
        if attention.num_classes != classifier.spec.num_classes:
            raise InputError(
                f"expected an attention mechanism for the {classifier.spec.num_classes} classes of "
                f"{classifier.spec.name}, got one for {attention.num_classes}"
            )
        self.classifier = classifier
        self.attention = attention
        self._split = split_at(classifier, classifier.layers[0]) if attention.masks == "features" else None

    def maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the map of one class per image in one forward pass.

        Args:
            images: (B, C, H, W) in [0, 1].
            targets: Class of each image, (B,) int64.

        Returns:
            (B, h, w), before the sigmoid, unscaled.
        """
        _, features = self.classifier(images)
        return self.attention(features, targets.unsqueeze(1)).squeeze(1)

    def training_pass(
        self,
        images: Tensor,
        other_classes: Literal["batch", "random", "none"] = "batch",
        masking: MaskingKind | None = None,
        generator: torch.Generator | None = None,
    ) -> TrainingPass:
        """Explain the predicted class of each image, mask the images (or features) with the maps, classify them again.

        The gradient of ``masked_logits`` reaches the attention mechanism only.

        Args:
            images: (B, C, H, W) in [0, 1].
            other_classes: Which other classes' maps enter the loss. ``batch``: the predicted classes of the whole
                batch, as in the authors' released program; ``random``: B - 1 other classes, drawn without replacement
                for each image (T-TAME, Eq. 12); ``none``: only the own map, which does not depend on the batch.
            masking: How images are masked, see `FrozenClassifier.masked_logits`.
            generator: Random generator on the CPU for the other classes; default: torch's global one.

        Returns:
            The pass. Its maps are float32, also under autocast: in half precision the sigmoid reaches 0, where the
            paper's area term has an infinite gradient.
        """
        with torch.no_grad():
            logits, features = self.classifier(images)
        targets = logits.argmax(1)
        if other_classes == "batch":
            maps = self.attention(features, targets).float().sigmoid()  # (B, B, h, w)
            own = maps.diagonal().movedim(-1, 0)  # the predicted classes, (B, h, w)
        else:
            random = other_classes == "random"
            classes = own_and_random(targets, logits.shape[1], generator) if random else targets.unsqueeze(1)
            maps = self.attention(features, classes).float().sigmoid()
            own = maps[:, 0]
        return TrainingPass(targets, maps, self.masked_logits(images, own, masking))

    def ranked_pass(self, images: Tensor, keep: Tensor, masking: MaskingKind | None = None) -> TrainingPass:
        """Explain the predicted class of each image, keep the pixels of highest rank in its map, classify again.

        The mask is a differentiable version of the mask of the rank-scaled evaluation. It does not depend on the scale
        and offset of the map, and its area is fixed, so neither a larger nor a rescaled map lowers the loss.

        Args:
            images: (B, C, H, W) in [0, 1].
            keep: Fraction of the pixels to keep, (B,) in (0, 1].
            masking: How images are masked, see `FrozenClassifier.masked_logits`.

        Returns:
            The pass, with the masks as ``maps``, (B, 1, h, w).
        """
        with torch.no_grad():
            logits, features = self.classifier(images)
        targets = logits.argmax(1)
        class_maps = self.attention(features, targets.unsqueeze(1)).squeeze(1).float()  # (B, h, w)
        masks = soft_keep_top(soft_rank(class_maps), keep)
        return TrainingPass(targets, masks.unsqueeze(1), self.masked_logits(images, masks, masking))

    def masked_logits(self, images: Tensor, masks: Tensor, masking: MaskingKind | None = None) -> Tensor:
        """Classify with the image or the features masked, as the mechanism's attribute ``masks`` says.

        Args:
            images: (B, C, H, W) in [0, 1].
            masks: (B, h, w) in [0, 1].
            masking: How images are masked, see `FrozenClassifier.masked_logits`.

        Returns:
            Logits (B, K); their gradient reaches the masks.
        """
        if self._split is None:
            return self.classifier.masked_logits(images, masks, masking)
        return masked_feature_logits(self._split, images, masks)


def masked_feature_logits(split: SplitClassifier, images: Tensor, masks: Tensor) -> Tensor:
    """Classify images whose features at one layer are multiplied by masks.

    Values outside of the map, such as a class token, are not changed.

    Args:
        split: The classifier, split at the layer.
        images: (B, C, H, W) in [0, 1].
        masks: (B, h, w), of the size of the layer's map.

    Returns:
        Logits (B, K); their gradient reaches the masks.
    """
    output, *others = split.before(images)
    # the map is a linear function of the layer's output: its transpose converts the change to the layer's layout
    layout: Any = torch.func.vjp(lambda values: as_map(split.classifier, values), output)
    features, to_layout = layout
    (change,) = to_layout(features * (masks - 1).unsqueeze(1))
    return split.after(output + change, *others)


def own_and_random(targets: Tensor, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Return each image's own class followed by B - 1 (at most K - 1) others, drawn without replacement.

    Args:
        targets: Class of each image, (B,) int64.
        num_classes: Number K of classes.
        generator: Random generator on the CPU; default: torch's global one.

    Returns:
        (B, N) int64, N = min(B, K).

    Example:
        >>> own_and_random(torch.tensor([1, 0]), num_classes=2).tolist()
        [[1, 0], [0, 1]]
    """
    scores = torch.rand(len(targets), num_classes, generator=generator).to(targets.device)
    scores.scatter_(1, targets.unsqueeze(1), 2.0)  # the own class comes first
    return scores.topk(min(len(targets), num_classes), dim=1).indices
