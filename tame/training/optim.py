"""Optimiser and schedule of the paper's training: SGD with Nesterov momentum, one learning-rate cycle per run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def parameter_groups(attention: nn.Module, weight_decay: float = 5e-4) -> list[dict[str, Any]]:
    """Return two groups: biases without weight decay, and all other parameters (also of batch norm) with it."""
    named = [(name, value) for name, value in attention.named_parameters() if value.requires_grad]
    return [
        {"params": [value for name, value in named if "bias" in name], "weight_decay": 0.0},
        {"params": [value for name, value in named if "bias" not in name], "weight_decay": weight_decay},
    ]


def build_optimizer(attention: nn.Module, lr: float, momentum: float = 0.9, weight_decay: float = 5e-4) -> SGD:
    """Return SGD with Nesterov momentum over `parameter_groups`."""
    return SGD(parameter_groups(attention, weight_decay), lr=lr, momentum=momentum, nesterov=True)


def build_schedule(optimizer: Optimizer, max_lr: float, total_steps: int) -> OneCycleLR:
    """Return one cycle over the whole run, one step per optimiser step.

    With PyTorch's defaults: the rate rises from ``max_lr / 25`` for 30 % of the steps and falls to
    ``max_lr / 250,000``, along cosines, while the momentum goes from 0.95 to 0.85 and back.
    """
    return OneCycleLR(optimizer, max_lr=max_lr, total_steps=total_steps)
