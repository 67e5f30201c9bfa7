"""What lies behind a layer, with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tame.backbones import FrozenClassifier
from tame.backbones.taps import hooked_outputs


class Behind:
    """What lies behind a layer, with gradients: the network with the output of the layer's last call replaced.

    Where nothing but this output reaches the logits, one image stands for all that lies before it; else (a residual
    connection around the layer) the network runs on all of them.

    Args:
        classifier: The classifier.
        layer: Name of a module.
    """

    def __init__(self, classifier: FrozenClassifier, layer: str) -> None:
        self.classifier = classifier
        self.module = classifier.module.get_submodule(layer)
        self.calls = 0
        shape = (2, *classifier.spec.preprocessing.shape)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(classifier.mean)
        images[0] /= 4  # so that the two images differ in more than noise
        with torch.no_grad():
            self._run(self._count, images)
            (values,) = hooked_outputs(classifier.module, (layer,), classifier.normalise(images))
            rows = torch.tensor([1, 0, 1], device=images.device)
            self.alone = self._agrees(values[rows], images[rows])

    def gradients(self, values: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Return ``d logit_t / dv`` at ``values`` v in the place of the layer's output.

        Args:
            values: (R, ...).
            images: Gives what bypasses the layer, (R, C, H, W).
            targets: Class t of each row, (R,).
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaf = values.detach().clone().requires_grad_()  # an inference tensor cannot be part of a graph
            images = images[:1] if self.alone else images
            logits = self.logits(leaf, images.detach().clone())
            # rows do not influence one another, so the gradient of the sum holds each row's own gradient
            total = logits.gather(1, targets.clone().unsqueeze(1)).sum()
            (gradients,) = torch.autograd.grad(total, leaf)
        return gradients

    def logits(self, values: Tensor, images: Tensor) -> Tensor:
        """Classify ``values`` (R, ...) of the layer; ``images`` has R rows, or one if that does not matter: (R, K)."""
        left = self.calls

        def replace(_module: nn.Module, _args: object, _output: Tensor) -> Tensor | None:
            nonlocal left
            left -= 1
            return None if left else values.clone()  # an in-place activation may follow

        return self._run(replace, images)

    def _agrees(self, values: Tensor, images: Tensor) -> bool:
        """Whether the first image stands for all of them."""
        expected = self.classifier.logits(images)
        try:
            found = self.logits(values, images[:1])
        except RuntimeError:  # shapes that do not fit
            return False
        # what goes wrong is a wrong row or shape; half precision of convolutions is not
        close = 1e-2 * float(expected.abs().amax())
        return found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=close)

    def _count(self, _module: nn.Module, _args: object, _output: Tensor) -> None:
        self.calls += 1

    def _run(self, hook: Callable[..., Tensor | None], images: Tensor) -> Tensor:
        handle = self.module.register_forward_hook(hook)
        try:
            return self.classifier.logits(images)
        finally:
            handle.remove()
