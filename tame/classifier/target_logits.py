"""The logits of the explained classes."""

from __future__ import annotations

from torch import Tensor


def target_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logit of each image's target: (B,).

    Sum them before a backward pass: images are independent, so the gradient of the sum contains each image's own
    gradient.

    Args:
        logits: (B, K).
        targets: Class of each image, int64 (B,); may be an inference tensor.

    Example:
        >>> import torch
        >>> target_logits(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
        tensor([2., 3.])
    """
    if targets.is_inference():
        targets = targets.clone()  # autograd cannot save an inference tensor
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)
