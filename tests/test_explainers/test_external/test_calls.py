"""Libraries read the call of a module that is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tame.classifier import FrozenClassifier, Preprocessing
from tame.explainers.external.probes import ProbedNetwork, observe


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(("layer", "size"), [("conv#1", 6), ("conv#2", 4), ("conv", 4)])
def test_a_probe_sees_the_call_that_is_named(layer: str, size: int) -> None:
    classifier = FrozenClassifier.from_module(Twice(), ["conv#1"], Preprocessing(8, 8))
    probed = ProbedNetwork(classifier, observe(classifier, [layer]), (8, 8))
    seen = list[Tensor]()
    probed.probes[0].register_forward_hook(lambda _module, _args, output: seen.append(output))
    inputs = torch.rand(2, 3, 8, 8)
    for _ in range(2):
        torch.testing.assert_close(probed(inputs), classifier.module(inputs))
    assert {tuple(output.shape) for output in seen} == {(2, 3, size, size)}
