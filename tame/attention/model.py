"""Classifier and attention mechanism together: class maps, selection, masked second pass."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier
from tame.classifier.gradients import as_map
from tame.classifier.split import Halves, cut_at
from tame.functional.masking import soft_keep_top, soft_rank
from tame.types import MaskingKind
from tame.utils.checks import InputError


class TrainingPass(NamedTuple):
    """What the loss needs of one batch.

    ``targets`` (B,): the model truth. ``maps`` (B, N, h, w) in [0, 1]: every image's map of its own and of other
    classes. ``masked_logits`` (B, K): of the images, or of their features, masked with their own class's map.
    """

    targets: Tensor
    maps: Tensor
    masked_logits: Tensor


class ExplainedClassifier(nn.Module):
    """A frozen classifier and the attention mechanism that explains it.

    Args:
        classifier: Never changes.
        attention: From the classifier's features to class maps; the only part that is trained. It says what its maps
            mask in the second pass: the image, or the feature map itself (L-CAM-Fm).

    Raises:
        InputError: If the mechanism was made for other features or another number of classes.
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
        self._halves = cut_at(classifier, classifier.layers[0]) if attention.masks == "features" else None

    def maps(self, images: Tensor, targets: Tensor) -> Tensor:
        """Compute the map of one class per image in one forward pass.

        Args:
            images: (B, C, H, W) in [0, 1].
            targets: (B,) int64.

        Returns:
            (B, h, w), before the sigmoid, unscaled.
        """
        _, features = self.classifier(images)
        return self.attention(features, targets.unsqueeze(1)).squeeze(1)

    def training_pass(
        self,
        images: Tensor,
        other_classes: Literal["batch", "random"] = "batch",
        masking: MaskingKind | None = None,
        generator: torch.Generator | None = None,
    ) -> TrainingPass:
        """Explain the model truth of a batch, mask the images or their features with it and classify them again.

        The gradient of ``masked_logits`` reaches the attention mechanism only.

        Args:
            images: (B, C, H, W) in [0, 1].
            other_classes: ``batch``: the maps of all model truths of the batch, as in the released program;
                ``random``: B - 1 other classes drawn without replacement for each image (T-TAME, Eq. 12).
            masking: See `FrozenClassifier.masked_logits`.
            generator: Draws the random classes, on the CPU; None: torch's own.
        """
        with torch.no_grad():
            logits, features = self.classifier(images)
        targets = logits.argmax(1)
        if other_classes == "batch":
            maps = self.attention(features, targets).sigmoid()  # (B, B, h, w), own classes on the diagonal
            own = maps.diagonal().movedim(-1, 0)  # (B, h, w)
        else:
            maps = self.attention(features, own_and_random(targets, logits.shape[1], generator)).sigmoid()
            own = maps[:, 0]
        return TrainingPass(targets, maps, self.masked_logits(images, own, masking))

    def ranked_pass(self, images: Tensor, keep: Tensor, masking: MaskingKind | None = None) -> TrainingPass:
        """Explain the model truth of a batch, keep a share of each image by the ranks of its map, classify again.

        The mask is what the rank-scaled evaluation makes of a map, smoothed: it does not change with the map's scale
        and offset, and its area is given, so neither a larger nor a stretched map helps.

        Args:
            images: (B, C, H, W) in [0, 1].
            keep: Share of the pixels to keep, (B,) in (0, 1].
            masking: See `FrozenClassifier.masked_logits`.

        Returns:
            With ``maps`` (B, 1, h, w): the masks.
        """
        with torch.no_grad():
            logits, features = self.classifier(images)
        targets = logits.argmax(1)
        class_maps = self.attention(features, targets.unsqueeze(1)).squeeze(1).float()  # (B, h, w)
        masks = soft_keep_top(soft_rank(class_maps), keep)
        return TrainingPass(targets, masks.unsqueeze(1), self.masked_logits(images, masks, masking))

    def masked_logits(self, images: Tensor, masks: Tensor, masking: MaskingKind | None = None) -> Tensor:
        """Classify with the image or the features masked, whichever the mechanism says.

        Args:
            images: (B, C, H, W) in [0, 1].
            masks: (B, h, w) in [0, 1].
            masking: Of images, see `FrozenClassifier.masked_logits`.

        Returns:
            Logits (B, K); their gradient reaches the masks.
        """
        if self._halves is None:
            return self.classifier.masked_logits(images, masks, masking)
        return masked_feature_logits(self._halves, images, masks)


def masked_feature_logits(halves: Halves, images: Tensor, masks: Tensor) -> Tensor:
    """Classify images whose features at one layer are multiplied by masks.

    Positions that are not on the map, as a class token, stay as they are.

    Args:
        halves: The classifier, cut at the layer.
        images: (B, C, H, W) in [0, 1].
        masks: (B, h, w), as large as the layer's map.

    Returns:
        Logits (B, K); their gradient reaches the masks.
    """
    output, *others = halves.before(images)
    # whatever the layer's layout, its map is linear in its output: the transposed map brings the change back
    layout: Any = torch.func.vjp(lambda values: as_map(halves.classifier, values), output)
    features, to_layout = layout
    (change,) = to_layout(features * (masks - 1).unsqueeze(1))
    return halves.behind(output + change, *others)


def own_and_random(targets: Tensor, num_classes: int, generator: torch.Generator | None = None) -> Tensor:
    """Return each image's own class followed by B - 1 (at most K - 1) others, drawn without replacement.

    Args:
        targets: (B,) int64.
        num_classes: K.
        generator: On the CPU; None: torch's own.

    Returns:
        (B, N) int64, N = min(B, K).

    Example:
        >>> own_and_random(torch.tensor([1, 0]), num_classes=2).tolist()
        [[1, 0], [0, 1]]
    """
    scores = torch.rand(len(targets), num_classes, generator=generator).to(targets.device)
    scores.scatter_(1, targets.unsqueeze(1), 2.0)  # the own class comes first
    return scores.topk(min(len(targets), num_classes), dim=1).indices
