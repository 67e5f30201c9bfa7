"""Classifier and attention mechanism together: class maps, selection, masked second pass."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tame.backbones import FrozenClassifier
from tame.checks import InputError
from tame.functional.masking import soft_keep_top, soft_rank
from tame.types import MaskingKind


class TrainingPass(NamedTuple):
    """What the loss needs of one batch.

    ``targets`` (B,): the model truth. ``maps`` (B, N, h, w) in [0, 1]: every image's map of its own and of other
    classes. ``masked_logits`` (B, K): of the images masked with their own class's map.
    """

    targets: Tensor
    maps: Tensor
    masked_logits: Tensor


class ExplainedClassifier(nn.Module):
    """A frozen classifier and the attention mechanism that explains it.

    Args:
        classifier: Never changes.
        attention: From the classifier's features to class maps; the only part that is trained.

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
        """Explain the model truth of a batch, mask the images with it and classify them again.

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
        return TrainingPass(targets, maps, self.classifier.masked_logits(images, own, masking))

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
        return TrainingPass(targets, masks.unsqueeze(1), self.classifier.masked_logits(images, masks, masking))


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
