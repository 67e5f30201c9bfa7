"""Everything that an explainer could leave changed: of a classifier, and of the generators of random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from tame.classifier import FrozenClassifier


def trace(classifier: FrozenClassifier) -> list[object]:
    """Return modes, hooks and identities of all modules, and values and gradients of all parameters and buffers."""
    modules: list[object] = [
        (name, id(part), part.training, list(vars(part)), getattr(part, "inplace", None))
        + tuple(list(hooks) for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks))
        + (list(part._backward_pre_hooks), [id(child) for child in part.children()])
        for name, part in classifier.module.named_modules()
    ]
    tensors = [*classifier.named_parameters(), *classifier.named_buffers()]
    values = [
        (name, id(v), v.data_ptr(), v.stride(), v.requires_grad, v.grad is None, v.sum().item()) for name, v in tensors
    ]
    return [*modules, *values]


def random_states() -> tuple[Any, ...]:
    """Return the states of all generators of random numbers."""
    _, numbers, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), numbers.tolist(), rest, random.getstate()
